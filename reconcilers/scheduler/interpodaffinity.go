package scheduler

import (
	"iter"
	"maps"
	"math"
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// hardPodAffinityWeight is what a pod's required affinity weighs for pods that it names, as kube-scheduler's default.
const hardPodAffinityWeight = 1

// nearPods refuses nodes by required pod affinity and anti-affinity, the pod's own and that of pods that are there.
func nearPods() predicate {
	return predicate{
		name: "InterPodAffinity", scope: across, wakes: PodGone | PodPlaced | PodRegrouped | NodeLabels | ObjectChanged,
		objects:  []schema.GroupResource{{Resource: "namespaces"}},
		concerns: func(d *demand) bool { return len(d.needs)+len(d.avoids)+len(d.avoided) > 0 },
		check:    func(d *demand, n *nodeInfo, _ *cluster) bool { return d.farFrom(n) == "" },
		words:    func(d *demand, n *nodeInfo, _ *cluster) []string { return []string{d.farFrom(n)} },
		ends:     func(d *demand, n *nodeInfo, _ *cluster) bool { return d.hasNeeded(n) },
		kin: func(d *demand, n *nodeInfo, key []byte) []byte {
			return kinOf(d.avoided, n, kinOf(d.avoids, n, kinOf(d.needs, n, key)))
		},
	}
}

// likedPods prefers nodes by preferred pod affinity and anti-affinity, the pod's own and that of pods that are there.
func likedPods() score {
	return score{
		name: "InterPodAffinity", weight: 2, scope: across,
		concerns: func(d *demand) bool { return len(d.likes) > 0 },
		kin:      func(d *demand, n *nodeInfo, key []byte) []byte { return kinOf(d.likes, n, key) },
		rank:     (*demand).rankLiked,
	}
}

// farFrom says why the pods that are there keep the pod from a node; empty: they do not.
func (d *demand) farFrom(n *nodeInfo) string {
	switch {
	case !d.hasNeeded(n):
		return "node(s) didn't match pod affinity rules"
	case anyAt(d.avoids, n):
		return "node(s) didn't match pod anti-affinity rules"
	case anyAt(d.avoided, n):
		return "node(s) didn't satisfy existing pods anti-affinity rules"
	}
	return ""
}

// hasNeeded says whether the pods that the pod wants to be near are near the node. The first of pods that want to be near each
// other may be anywhere.
func (d *demand) hasNeeded(n *nodeInfo) bool {
	found, none := true, true
	for _, t := range d.needs {
		count, has := t.at(n)
		if !has {
			return false
		}
		found, none = found && count > 0, none && t.some == 0
	}
	return found || none && d.needsItself
}

func anyAt(tallies []*tally, n *nodeInfo) bool {
	return slices.ContainsFunc(tallies, func(t *tally) bool { count, _ := t.at(n); return count > 0 })
}

// rankLiked brings the weights of what is near to scores: 0 for the worst of the nodes, best for the best.
func (d *demand) rankLiked(spots []spot, scores []int64) {
	least, most := int64(math.MaxInt64), int64(math.MinInt64)
	for i, s := range spots {
		scores[i] = 0
		for _, t := range d.likes {
			count, _ := t.at(s.node)
			scores[i] += count
		}
		least, most = min(least, scores[i]), max(most, scores[i])
	}
	for i := range scores {
		if most == least {
			scores[i] = 0
			continue
		}
		scores[i] = int64(best * (float64(scores[i]-least) / float64(most-least)))
	}
}

// surveyPods counts where the pods are that matter to the affinity of the demand's pods, and those to whose affinity they matter.
func (d *demand) surveyPods(c *cluster) {
	g := d.load.group
	if g.terms == nil && len(c.groups.social)+len(c.fresh.social) == 0 {
		return
	}
	reaching := func(list func(*terms) []term, weigh func(*term) int64) []*tally {
		matters := map[string]bool{}
		for other := range c.reaching(g.namespace) {
			terms := list(other.terms)
			for i := range terms {
				if t := &terms[i]; !matters[t.topology] && t.names(g, c) {
					matters[t.topology] = true
				}
			}
		}
		return c.byTopology(matters, c.reaching(g.namespace), func(other *group, topology string) (sum int64) {
			if other.terms == nil {
				return 0
			}
			terms := list(other.terms)
			for i := range terms {
				if t := &terms[i]; t.topology == topology && t.names(g, c) {
					sum += weigh(t)
				}
			}
			return sum
		})
	}
	one := func(*term) int64 { return 1 }
	weight := func(t *term) int64 { return t.weight }
	d.avoided = reaching(func(t *terms) []term { return t.avoids }, one)
	d.likes = reaching(func(t *terms) []term { return t.likes }, weight)
	d.likes = append(d.likes, reaching(func(t *terms) []term { return t.needs }, func(*term) int64 { return hardPodAffinityWeight })...)
	if g.terms == nil {
		return
	}
	needs := g.terms.needs
	d.needsItself = namesAll(needs, g, c)
	d.needs = c.byTopology(topologiesOf(needs), c.near(needs), func(other *group, _ string) int64 {
		if namesAll(needs, other, c) {
			return 1
		}
		return 0
	})
	own := func(list []term, weigh func(*term) int64) []*tally {
		return c.byTopology(topologiesOf(list), c.near(list), func(other *group, topology string) (sum int64) {
			for i := range list {
				if t := &list[i]; t.topology == topology && t.names(other, c) {
					sum += weigh(t)
				}
			}
			return sum
		})
	}
	d.avoids = own(g.terms.avoids, one)
	d.likes = append(d.likes, own(g.terms.likes, weight)...)
}

// byTopology returns a tally for each topology.
func (c *cluster) byTopology(keys map[string]bool, among iter.Seq[*group], weigh func(*group, string) int64) (out []*tally) {
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		out = append(out, c.newTally(c.topology(topologyKey{label: key}), nil, among, func(g *group) int64 { return weigh(g, key) }))
	}
	return out
}

func topologiesOf(list []term) map[string]bool {
	out := map[string]bool{}
	for i := range list {
		out[list[i].topology] = true
	}
	return out
}

func namesAll(list []term, g *group, c *cluster) bool {
	for i := range list {
		if !list[i].names(g, c) {
			return false
		}
	}
	return len(list) > 0
}
