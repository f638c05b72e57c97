package pods

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
)

// TestStatusesAreBounded: whatever containers, registries and hooks say, and however much a pod states, its status can be stored.
func TestStatusesAreBounded(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	long := strings.Repeat("é", 1<<20)
	pod := &corev1.Pod{}
	o := Observed{Sandbox: Sandbox{ID: "s"}, Failures: map[Key]Failure{}}
	groups := make([]int64, 30_000)
	for i := range 200 {
		name := fmt.Sprint("c", i)
		c := corev1.Container{Name: name}
		for v := range 100 {
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "v", MountPath: fmt.Sprint("/a/place/of/some/length/", v)})
		}
		pod.Spec.Containers = append(pod.Spec.Containers, c)
		if i%2 == 0 {
			o.Failures[Key{Prepare, name}] = Failure{Reason: "ErrImagePull", Message: long, At: now, Count: 1}
			continue
		}
		o.Containers = append(o.Containers, Container{ID: name, Name: name, Sandbox: "s", State: Exited, ExitCode: 1, Message: long,
			Reason: ReasonStartError, FinishedAt: now, Crashes: 3, Hash: Hash(&c),
			User: &corev1.ContainerUser{Linux: &corev1.LinuxContainerUser{SupplementalGroups: groups}}})
	}
	s := Status(Wanted{Pod: pod}, o, now)
	if s.Size() > 512<<10 {
		t.Errorf("%d bytes", s.Size())
	}
	for _, c := range s.ContainerStatuses {
		for _, state := range []corev1.ContainerState{c.State, c.LastTerminationState} {
			if w := state.Waiting; w != nil && (!utf8.ValidString(w.Message) || len(w.Message) < 300) {
				t.Fatalf("%s waits: %d bytes", c.Name, len(w.Message))
			}
			if e := state.Terminated; e != nil && (!utf8.ValidString(e.Message) || len(e.Message) < 50 ||
				len(e.Message) > allLastWords/200) {
				t.Fatalf("%s has ended: %d bytes", c.Name, len(e.Message))
			}
		}
	}
	// Its last words are Kubernetes' 4 KiB of one, and 12 KiB of all.
	few := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a"}, {Name: "b"}, {Name: "c"}, {Name: "d"}}}}
	few.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "d",
		State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Message: long[:8<<10]}}}}
	o = Observed{Sandbox: Sandbox{ID: "s"}, Containers: []Container{
		{ID: "1", Name: "a", Sandbox: "s", State: Exited, Message: long[:4<<10], FinishedAt: now, Hash: Hash(&few.Spec.Containers[0])}}}
	few.Spec.RestartPolicy = corev1.RestartPolicyNever
	few.DeletionTimestamp = &few.CreationTimestamp
	s = Status(Wanted{Pod: few}, o, now)
	for _, at := range []int{0, 3} {
		if e := s.ContainerStatuses[at].State.Terminated; e == nil || len(e.Message) != 3<<10 {
			t.Errorf("%+v", s.ContainerStatuses[at])
		}
	}
	if len(few.Status.ContainerStatuses[0].State.Terminated.Message) != 8<<10 {
		t.Error("the pod itself was changed")
	}
}
