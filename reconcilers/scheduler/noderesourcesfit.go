package scheduler

import (
	corev1 "k8s.io/api/core/v1"
)

// resourcesFit refuses nodes that have less left than the pod requests.
func resourcesFit() predicate {
	return predicate{
		name: "NodeResourcesFit", scope: itself, wakes: PodGone | NodeAllocatable,
		check: (*demand).fits, words: (*demand).missing, ends: (*demand).fitsAlone,
	}
}

// leastAllocated prefers nodes with more left.
func leastAllocated() score {
	return score{name: "NodeResourcesFit", weight: 1, scope: itself, of: (*demand).free}
}

func (d *demand) fits(n *nodeInfo, _ *cluster) bool {
	want := &d.load.requests
	enough := func(want, have, used int64) bool { return want <= 0 || want <= have-used }
	if n.pods+1 > n.maxPods || !enough(want.cpu, n.allocatable.cpu, n.requested.cpu) ||
		!enough(want.memory, n.allocatable.memory, n.requested.memory) ||
		!enough(want.storage, n.allocatable.storage, n.requested.storage) {
		return false
	}
	for name, v := range want.scalar {
		if !enough(v, n.allocatable.scalar[name], n.requested.scalar[name]) {
			return false
		}
	}
	return true
}

// fitsAlone says whether the node would do if it had no pods.
func (d *demand) fitsAlone(n *nodeInfo, _ *cluster) bool {
	want, have := &d.load.requests, &n.allocatable
	for name, v := range want.scalar {
		if v > have.scalar[name] {
			return false
		}
	}
	return want.cpu <= have.cpu && want.memory <= have.memory && want.storage <= have.storage
}

// missing words why the pod does not fit, one reason a resource.
func (d *demand) missing(n *nodeInfo, _ *cluster) []string {
	var out []string
	if n.pods+1 > n.maxPods {
		out = append(out, "Too many pods")
	}
	check := func(name corev1.ResourceName, want, have, used int64) {
		if want > 0 && want > have-used {
			out = append(out, "Insufficient "+string(name))
		}
	}
	want := &d.load.requests
	check(corev1.ResourceCPU, want.cpu, n.allocatable.cpu, n.requested.cpu)
	check(corev1.ResourceMemory, want.memory, n.allocatable.memory, n.requested.memory)
	check(corev1.ResourceEphemeralStorage, want.storage, n.allocatable.storage, n.requested.storage)
	for name, v := range want.scalar {
		check(name, v, n.allocatable.scalar[name], n.requested.scalar[name])
	}
	return out
}

// free is the share of CPU and memory that stays free, in percent.
func (d *demand) free(n *nodeInfo, _ *cluster) int64 {
	sum, parts := int64(0), int64(0)
	add := func(used, capacity int64) {
		if capacity > 0 {
			parts++
			sum += max(0, capacity-used) * best / capacity
		}
	}
	add(n.cpu+d.load.cpu, n.allocatable.cpu)
	add(n.memory+d.load.memory, n.allocatable.memory)
	if parts == 0 {
		return 0
	}
	return sum / parts
}
