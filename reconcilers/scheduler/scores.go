package scheduler

import (
	"math"

	corev1 "k8s.io/api/core/v1"
)

// The weights of the scores, each from 0 to 100, are kube-scheduler's defaults; spread has that of topology spreading.
const (
	weightTaints    = 3
	weightAffinity  = 2
	weightSpread    = 2
	weightLeast     = 1
	weightBalanced  = 1
	best            = 100
	neutralBalanced = 0 // for pods that request neither CPU nor memory
)

// fixedScore is the part of a node's score that bindings do not change. Taints and affinity are what rawScores returned
// for the node, the maxima those over all candidates.
func fixedScore(taints, maxTaints, affinity, maxAffinity int64) int64 {
	score := int64(weightTaints * best)
	if maxTaints > 0 {
		score = weightTaints * (best - best*taints/maxTaints)
	}
	if maxAffinity > 0 {
		score += weightAffinity * (best * affinity / maxAffinity)
	}
	return score
}

// rawScores counts the taints of a node the pod had better avoid, and the weight of the preferences the node satisfies.
func (d *demand) rawScores(n *nodeInfo) (taints, affinity int64) {
	for i := range n.taints {
		if t := &n.taints[i]; t.Effect == corev1.TaintEffectPreferNoSchedule && !d.tolerates(t) {
			taints++
		}
	}
	if d.preferred != nil {
		affinity = d.preferred.Score(n.node)
	}
	return taints, affinity
}

// movingScore is the part of a node's score that its own bindings change, and no other node's.
func (d *demand) movingScore(n *nodeInfo) int64 {
	return weightLeast*d.leastAllocated(n) + weightBalanced*d.balanced(n) + weightSpread*d.spread(n)
}

// leastAllocated is the share of CPU and memory that stays free, in percent.
func (d *demand) leastAllocated(n *nodeInfo) int64 {
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
func (d *demand) balanced(n *nodeInfo) int64 {
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
func (d *demand) spread(n *nodeInfo) int64 {
	if d.load.owner == "" {
		return best
	}
	return best / int64(1+n.owners[d.load.owner])
}
