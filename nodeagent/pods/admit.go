package pods

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	helpers "k8s.io/component-helpers/resource"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/kinds/quantity"
)

// Admitted says that a node has taken the pod before, as its status says, or need not any more: it is not asked again.
func Admitted(pod *corev1.Pod) bool {
	return pod.Status.StartTime != nil || pod.DeletionTimestamp != nil
}

// Admit says why a node cannot take the pod beside those it has: the scheduler and other writers may have raced. It names
// the first resource of which there is too little, in the kubelet's words; empty means that it can.
func Admit(allocatable corev1.ResourceList, others []Wanted, pod *corev1.Pod) (reason, message string) {
	used, count := corev1.ResourceList{}, int64(0)
	for _, other := range others {
		if other.Pod.UID == pod.UID && pod.UID != "" || !takesRoom(other) {
			continue
		}
		count++
		for name, q := range helpers.PodRequests(other.Pod, helpers.PodResourcesOptions{}) {
			sum := used[name]
			sum.Add(q)
			used[name] = sum
		}
	}
	lacks := func(name corev1.ResourceName, requested, used, capacity int64) (string, string) {
		return "OutOf" + string(name), fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d",
			name, requested, used, capacity)
	}
	if most, ok := allocatable[corev1.ResourcePods]; ok && count >= most.Value() {
		return lacks(corev1.ResourcePods, 1, count, most.Value())
	}
	requests := helpers.PodRequests(pod, helpers.PodResourcesOptions{})
	for _, name := range slices.Sorted(maps.Keys(requests)) {
		most, ok := allocatable[name]
		value := quantity.Value
		if name == corev1.ResourceCPU {
			value = quantity.Milli
		}
		requested, before := requests[name], used[name]
		if !ok && kinds.ExtendedResource(name) && !requested.IsZero() {
			return Unexpected(fmt.Errorf("cannot allocate unregistered device %s", name))
		}
		if (ok || kinds.HugePages(name)) && !requested.IsZero() && value(&requested) > value(&most)-value(&before) {
			return lacks(name, value(&requested), value(&before), value(&most))
		}
	}
	return "", ""
}

// Unexpected is how a pod is refused for an error, in the kubelet's words.
func Unexpected(err error) (reason, message string) {
	return "UnexpectedAdmissionError", fmt.Sprintf("Allocate failed due to %v, which is unexpected", err)
}

// takesRoom says whether the node needs what the pod asks for.
func takesRoom(w Wanted) bool {
	return !w.Refused() && !podstatus.Finished(&w.Pod.Status)
}

// Refused says that the node does not run the pod, or no longer has it.
func (w Wanted) Refused() bool { return w.Rejected != "" || w.Gone }
