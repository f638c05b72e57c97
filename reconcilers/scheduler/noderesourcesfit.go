package scheduler

import (
	"fmt"
	"math"
	"slices"

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

// score returns how the profile's strategy scores nodes. It fails where the strategy cannot be used.
func (f Fit) score() (score, error) {
	if f.Strategy == "" {
		f.Strategy = LeastAllocated
	}
	if len(f.Resources) == 0 {
		f.Resources = []ResourceWeight{{corev1.ResourceCPU, 1}, {corev1.ResourceMemory, 1}}
	}
	out := score{name: "NodeResourcesFit", weight: 1, scope: itself}
	for _, r := range f.Resources {
		if r.Name == "" || r.Weight < 1 || r.Weight > best {
			return out, fmt.Errorf("cannot score resource %q by weight %d: want 1 to %d", r.Name, r.Weight, best)
		}
	}
	var of func(used, capacity int64) int64
	switch f.Strategy {
	case LeastAllocated:
		of = func(used, capacity int64) int64 { return max(0, capacity-used) * best / capacity }
	case MostAllocated:
		of = func(used, capacity int64) int64 { return min(used, capacity) * best / capacity }
	case RequestedToCapacityRatio:
		if err := f.checkShape(); err != nil {
			return out, err
		}
		of = func(used, capacity int64) int64 { return f.at(min(used, capacity) * best / capacity) }
	default:
		return out, fmt.Errorf("cannot score nodes by strategy %q: want %s, %s or %s", f.Strategy, LeastAllocated, MostAllocated,
			RequestedToCapacityRatio)
	}
	ratio := f.Strategy == RequestedToCapacityRatio
	out.of = func(d *demand, n *nodeInfo, _ *cluster) int64 {
		sum, weights := int64(0), int64(0)
		for _, r := range f.Resources {
			used, capacity := d.use(n, r.Name)
			if capacity == 0 {
				continue
			}
			if one := of(used, capacity); one > 0 || !ratio {
				sum, weights = sum+one*r.Weight, weights+r.Weight
			}
		}
		switch {
		case weights == 0:
			return 0
		case ratio:
			return int64(math.Round(float64(sum) / float64(weights)))
		}
		return sum / weights
	}
	return out, nil
}

// use is what of a resource would be used on a node with the pod, as scoring sees it, of how much. What the pod does not ask for of
// an extended resource says nothing of the node.
func (d *demand) use(n *nodeInfo, name corev1.ResourceName) (used, capacity int64) {
	switch name {
	case corev1.ResourceCPU:
		return n.cpu + d.load.cpu, n.allocatable.cpu
	case corev1.ResourceMemory:
		return n.memory + d.load.memory, n.allocatable.memory
	case corev1.ResourceEphemeralStorage:
		return n.requested.storage + d.load.requests.storage, n.allocatable.storage
	}
	if d.load.requests.scalar[name] == 0 {
		return 0, 0
	}
	return n.requested.scalar[name] + d.load.requests.scalar[name], n.allocatable.scalar[name]
}

func (f Fit) checkShape() error {
	if len(f.Shape) == 0 {
		return fmt.Errorf("cannot use strategy %s: it has no shape", f.Strategy)
	}
	for i, p := range f.Shape {
		if p.Utilization < 0 || p.Utilization > best || p.Score < 0 || p.Score > 10 || i > 0 && p.Utilization <= f.Shape[i-1].Utilization {
			return fmt.Errorf("cannot use point %d of the shape: want utilizations that grow from 0 to 100, and scores from 0 to 10", i)
		}
	}
	return nil
}

// at is the score at a use in percent, on the straight line between the points beside it.
func (f Fit) at(use int64) int64 {
	i := slices.IndexFunc(f.Shape, func(p ShapePoint) bool { return use <= p.Utilization })
	switch i {
	case -1:
		return f.Shape[len(f.Shape)-1].Score * 10
	case 0:
		return f.Shape[0].Score * 10
	}
	a, b := f.Shape[i-1], f.Shape[i]
	return a.Score*10 + (b.Score-a.Score)*10*(use-a.Utilization)/(b.Utilization-a.Utilization)
}
