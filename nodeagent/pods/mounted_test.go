package pods

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// TestMounted: a container's status says of each of its volumes how it has it, before it runs and on nodes that cannot do all, and how
// its devices are.
func TestMounted(t *testing.T) {
	c := corev1.Container{Name: "main", VolumeMounts: []corev1.VolumeMount{
		{Name: "open", MountPath: "/open", RecursiveReadOnly: new(corev1.RecursiveReadOnlyDisabled)},
		{Name: "plain", MountPath: "/plain", ReadOnly: true},
		{Name: "whole", MountPath: "/whole", ReadOnly: true, RecursiveReadOnly: new(corev1.RecursiveReadOnlyEnabled)},
		{Name: "perhaps", MountPath: "/perhaps", ReadOnly: true, RecursiveReadOnly: new(corev1.RecursiveReadOnlyIfPossible)},
	}}
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{c}, InitContainers: []corev1.Container{{Name: "first"}}}}
	for recursive, want := range map[bool]string{
		true:  "/open false - /plain true Disabled /whole true Enabled /perhaps true Enabled ",
		false: "/open false - /plain true Disabled /whole true Disabled /perhaps true Disabled ",
	} {
		health := []corev1.ResourceStatus{{Name: "example.com/gpu"}}
		s := Status(Wanted{Pod: pod}, Observed{RecursiveReadOnly: recursive,
			Health: map[string][]corev1.ResourceStatus{"main": health, "first": health}}, time.Unix(0, 0))
		got := ""
		for _, m := range s.ContainerStatuses[0].VolumeMounts {
			mode := "-"
			if m.RecursiveReadOnly != nil {
				mode = string(*m.RecursiveReadOnly)
			}
			got += fmt.Sprint(m.MountPath, " ", m.ReadOnly, " ", mode, " ")
		}
		if got != want {
			t.Errorf("recursive %v: %s, want %s", recursive, got, want)
		}
		if len(s.ContainerStatuses[0].AllocatedResourcesStatus) != 1 || len(s.InitContainerStatuses[0].AllocatedResourcesStatus) != 0 {
			t.Errorf("devices: %+v", s)
		}
	}
}
