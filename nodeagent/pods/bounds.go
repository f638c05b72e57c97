package pods

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// What a status may have of texts that others than the node have written, in bytes, over all containers of the pod.
const (
	// allLastWords is the kubelet's bound of termination messages.
	allLastWords = 12 << 10
	// allWaits bounds why containers wait: registries answer what they like, and a hook's failure has the hook's command.
	allWaits = 64 << 10
	// largestStatus is less than the API takes of a node, which could say nothing of the pod any more, not even that it has ended.
	largestStatus = 384 << 10
)

// bound keeps a status so small that it can be stored. What only repeats the specification goes first.
func bound(s *corev1.PodStatus) {
	lists := [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses}
	n := max(1, len(lists[0])+len(lists[1]))
	each := func(do func(*corev1.ContainerStatus)) {
		for _, list := range lists {
			for i := range list {
				do(&list[i])
			}
		}
	}
	each(func(c *corev1.ContainerStatus) {
		for _, state := range []*corev1.ContainerState{&c.State, &c.LastTerminationState} {
			if t := state.Terminated; t != nil && len(t.Message) > allLastWords/n {
				state.Terminated = t.DeepCopy() // it may be the pod's own
				state.Terminated.Message = cut(t.Message, allLastWords/n)
			}
			if w := state.Waiting; w != nil && len(w.Message) > allWaits/n {
				state.Waiting = w.DeepCopy()
				state.Waiting.Message = cut(w.Message, allWaits/n)
			}
		}
	})
	if s.Size() > largestStatus {
		each(func(c *corev1.ContainerStatus) { c.VolumeMounts = nil })
	}
	if s.Size() > largestStatus {
		each(func(c *corev1.ContainerStatus) {
			c.User, c.Resources, c.AllocatedResources, c.AllocatedResourcesStatus = nil, nil, nil, nil
		})
		s.Resources, s.AllocatedResources = nil, nil
	}
}

// cut is the beginning of a text, in bytes and whole characters.
func cut(text string, most int) string { return strings.ToValidUTF8(text[:most], "") }
