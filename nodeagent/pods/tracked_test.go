package pods

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestTrackedImages: only of a pod that asks for it, of containers that run, by names that can move.
func TestTrackedImages(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"lockstep.dev/track-image": "true"}}}
	for name, c := range map[string]struct {
		image, id string
		state     corev1.ContainerState
	}{
		"web":   {"reg.test/web:v1", "reg.test/web@" + digest, running},
		"plain": {"nginx", "docker.io/library/nginx@" + digest, running},
		"fixed": {"reg.test/web:v1@" + digest, "reg.test/web@" + digest, running},
		"file":  {"reg.test/web:v1", digest, running},
		"ended": {"reg.test/web:v1", "reg.test/web@" + digest, corev1.ContainerState{}},
	} {
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: name, Image: c.image})
		status := corev1.ContainerStatus{Name: name, ImageID: c.id, State: c.state}
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, status)
	}
	got := map[string]Tracked{}
	for _, tracked := range TrackedImages(pod) {
		got[tracked.Container] = tracked
	}
	want := map[string]Tracked{"web": {"web", "reg.test/web:v1", digest}, "plain": {"plain", "nginx", digest}}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("tracked %v", got)
	}
	pod.Annotations["lockstep.dev/track-image"] = "false"
	if got := TrackedImages(pod); got != nil {
		t.Errorf("nobody asks: %v", got)
	}
}

func TestMoved(t *testing.T) {
	a, b := "sha256:"+strings.Repeat("a", 64), "sha256:"+strings.Repeat("b", 64)
	tracked := []Tracked{{"web", "reg.test/web:v1", a}, {"log", "reg.test/log:v1", b}}
	for want, latest := range map[string]map[string]string{
		"": {"reg.test/web:v1": a, "reg.test/log:v1": ""},
		"the tag of image reg.test/log:v1 has moved from sha256:bbbbbbbbbbbb to sha256:aaaaaaaaaaaa": {"reg.test/log:v1": a},
		"the tag of image reg.test/web:v1 has moved from sha256:aaaaaaaaaaaa to sha256:bbbbbbbbbbbb": {"reg.test/web:v1": b,
			"reg.test/log:v1": a},
		"the tag of image reg.test/log:v1 has moved from sha256:bbbbbbbbbbbb to x": {"reg.test/log:v1": "x"},
	} {
		if got := Moved(tracked, latest); got != want {
			t.Errorf("%v: %q, want %q", latest, got, want)
		}
	}
}
