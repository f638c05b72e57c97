package scheduler

import "math"

const neutralBalanced = 0 // for pods that request neither CPU nor memory

// balancedAllocation prefers nodes whose CPU and memory the pod would use evenly.
func balancedAllocation() score {
	return score{name: "NodeResourcesBalancedAllocation", weight: 1, scope: itself, of: (*demand).balanced}
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
