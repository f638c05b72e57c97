package pods

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds/podstatus"
)

// Tracked is an image of a running container, of which somebody wants to know when its tag is moved.
type Tracked struct {
	Container string
	Image     string // as the pod states it
	Digest    string // that runs
}

// TrackedImages are those of a pod that asks for it. A name with a digest cannot move, and what came from no registry is not asked for.
func TrackedImages(pod *corev1.Pod) []Tracked {
	if pod.Annotations[podstatus.TrackImage] != "true" || pod.DeletionTimestamp != nil {
		return nil
	}
	var out []Tracked
	for _, c := range pod.Spec.Containers {
		if strings.Contains(c.Image, "@") { // a digest
			continue
		}
		for _, s := range pod.Status.ContainerStatuses {
			_, digest, ok := strings.Cut(s.ImageID, "@")
			if ok && s.Name == c.Name && s.State.Running != nil {
				out = append(out, Tracked{c.Name, c.Image, digest})
			}
		}
	}
	return out
}

// Moved words which tag is elsewhere than what runs, by the digests that registries have now for the images as they are stated; those
// that are not known have not moved. Empty: none.
func Moved(tracked []Tracked, latest map[string]string) string {
	for _, t := range tracked {
		if now := latest[t.Image]; now != "" && now != t.Digest {
			return fmt.Sprintf("the tag of image %s has moved from %s to %s", t.Image, short(t.Digest), short(now))
		}
	}
	return ""
}

// short is the beginning of a digest, as programs show it.
func short(digest string) string {
	const algorithm, digits = len("sha256:"), 12
	return digest[:min(len(digest), algorithm+digits)]
}

// moved sets the condition that a tag has moved, which is there while it has.
func moved(w Wanted, s *corev1.PodStatus, now time.Time) {
	if w.Moved == "" {
		unset(s, podstatus.ImageMoved)
		return
	}
	put(s, corev1.PodCondition{Type: podstatus.ImageMoved, Status: corev1.ConditionTrue, ObservedGeneration: w.Pod.Generation,
		Reason: "TagMoved", Message: w.Moved}, now)
}
