package scheduler

import (
	"math"

	corev1 "k8s.io/api/core/v1"
)

const (
	best            = 100
	neutralBalanced = 0 // for pods that request neither CPU nor memory
)

// scores have kube-scheduler's default weights; spread has that of topology spreading.
func scores() []score {
	return []score{
		{
			name: "TaintToleration", weight: 3, scope: still, reads: tolerations, of: (*demand).avoided,
			scale: func(taints, most int64) int64 { return best - best*taints/most }, nothing: best,
		},
		{
			name: "NodeAffinity", weight: 2, scope: still, reads: nodeAffinity, of: (*demand).preference,
			concerns: func(d *demand) bool { return d.preferred != nil },
			scale:    func(weight, most int64) int64 { return best * weight / most },
		},
		{name: "NodeResourcesFit", weight: 1, scope: itself, of: (*demand).leastAllocated},
		{name: "NodeResourcesBalancedAllocation", weight: 1, scope: itself, of: (*demand).balanced},
		{name: "OwnerSpread", weight: 2, scope: itself, of: (*demand).spread},
	}
}

// avoided counts the taints of a node that the pod had better avoid.
func (d *demand) avoided(n *nodeInfo, _ *cluster) (taints int64) {
	for i := range n.taints {
		if t := &n.taints[i]; t.Effect == corev1.TaintEffectPreferNoSchedule && !d.tolerates(t) {
			taints++
		}
	}
	return taints
}

// preference is the weight of the preferences that the node satisfies.
func (d *demand) preference(n *nodeInfo, _ *cluster) int64 { return d.preferred.Score(n.node) }

// leastAllocated is the share of CPU and memory that stays free, in percent.
func (d *demand) leastAllocated(n *nodeInfo, _ *cluster) int64 {
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

// balanced is 75 where the pod leaves the proportion of used CPU to used memory as it is, more where it evens it out.
func (d *demand) balanced(n *nodeInfo, _ *cluster) int64 {
	if d.load.requests.cpu == 0 && d.load.requests.memory == 0 {
		return neutralBalanced
	}
	before := evenness(n, n.requested.cpu, n.requested.memory)
	after := evenness(n, n.requested.cpu+d.load.requests.cpu, n.requested.memory+d.load.requests.memory)
	return best/2 + (best/2+after-before)/2
}

// evenness is 100 less the standard deviation of the used shares of CPU and memory, in percent: 50 to 100.
func evenness(n *nodeInfo, cpu, memory int64) int64 {
	if n.allocatable.cpu == 0 || n.allocatable.memory == 0 {
		return best
	}
	a := min(1, float64(cpu)/float64(n.allocatable.cpu))
	b := min(1, float64(memory)/float64(n.allocatable.memory))
	return int64((1 - math.Abs(a-b)/2) * best)
}

// spread falls with each pod of the same controller on the node: 100, 50, 33, 25, … A pod without one is not spread.
func (d *demand) spread(n *nodeInfo, _ *cluster) int64 {
	if d.load.owner == "" {
		return best
	}
	return best / int64(1+n.owners[d.load.owner])
}
