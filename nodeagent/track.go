package nodeagent

import (
	"context"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"lockstep/nodeagent/images"
	"lockstep/nodeagent/pod"
	"lockstep/nodeagent/pods"
)

const (
	// trackLook is how often pods are looked at that ask for it, and trackPeriod how often a registry is asked for one image: a tag
	// that moves is news of hours, and registries count requests.
	trackLook, trackPeriod = 15 * time.Second, 10 * time.Minute
	// trackAtOnce bounds the registries' questions of one look, one after the other: 16 a minute, of any number of pods.
	trackAtOnce = 4
)

// trackedTag is what is known of a tag.
type trackedTag struct {
	asked  time.Time
	digest string // empty: not known
}

// trackImages tells pods that ask for it when a tag of their images has moved, until ctx ends.
func (a *Agent) trackImages(ctx context.Context) error {
	tags := map[string]trackedTag{}
	t := time.NewTicker(a.opts.trackEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		tags = a.trackOnce(ctx, tags)
	}
}

// trackOnce looks at all pods, and returns the tags that they have.
func (a *Agent) trackOnce(ctx context.Context, known map[string]trackedTag) map[string]trackedTag {
	next := map[string]trackedTag{}
	left := trackAtOnce
	for _, p := range a.allPods() {
		o := p.Object()
		tracked := pods.TrackedImages(o)
		latest := map[string]string{}
		for _, t := range tracked {
			key := tagKey(o, t.Image)
			tag, seen := next[key]
			if !seen {
				tag = known[key]
			}
			if left > 0 && time.Since(tag.asked) >= a.opts.askEvery {
				left--
				tag = a.askTag(ctx, p, t.Image, tag)
			}
			next[key] = tag
			latest[t.Image] = tag.digest
		}
		p.Moved(pods.Moved(tracked, latest))
	}
	return next
}

// tagKey is what pods have in common that get the same answer.
func tagKey(o *corev1.Pod, image string) string {
	words := []string{image, o.Namespace}
	for _, s := range o.Spec.ImagePullSecrets {
		words = append(words, s.Name)
	}
	return strings.Join(words, "\n")
}

// askTag asks a registry; where that fails, what was known stays.
func (a *Agent) askTag(ctx context.Context, p *pod.Pod, image string, was trackedTag) trackedTag {
	secrets, err := p.PullSecrets(ctx)
	digest := ""
	if err == nil {
		digest, err = a.images.Latest(ctx, images.Request{Image: image, Secrets: secrets})
	}
	if err != nil {
		if ctx.Err() == nil {
			p.Log().Warn("cannot learn whether the image has moved", "image", image, "error", err)
		}
		digest = was.digest
	}
	return trackedTag{time.Now(), digest}
}
