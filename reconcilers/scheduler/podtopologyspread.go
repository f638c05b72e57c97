package scheduler

import (
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// defaultSpread is how pods of controllers and services are spread that say nothing of it, as kube-scheduler's system defaults.
func defaultSpread() []corev1.TopologySpreadConstraint {
	return []corev1.TopologySpreadConstraint{
		{TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway, MaxSkew: 3},
		{TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.ScheduleAnyway, MaxSkew: 5},
	}
}

const (
	skewed    = "node(s) didn't match pod topology spread constraints"
	unlabeled = skewed + " (missing required label)"
)

// evenSpread refuses nodes where a pod more would spread pods less evenly than they may be.
func evenSpread() predicate {
	return predicate{
		name: "PodTopologySpread", scope: across, wakes: PodGone | PodPlaced | PodRegrouped | NodeLabels | NodeTaints, reads: spreading,
		concerns: func(d *demand) bool { return len(d.spread) > 0 },
		check:    func(d *demand, n *nodeInfo, _ *cluster) bool { return d.skews(n) == "" },
		words:    func(d *demand, n *nodeInfo, _ *cluster) []string { return []string{d.skews(n)} },
		ends:     func(d *demand, n *nodeInfo, _ *cluster) bool { return d.skews(n) == skewed },
		kin:      func(d *demand, n *nodeInfo, key []byte) []byte { return kinOfSpread(d.spread, n, key) },
	}
}

// evenerSpread prefers nodes where pods that had better be spread are fewer.
func evenerSpread() score {
	return score{
		name: "PodTopologySpread", weight: 2, scope: across, reads: spreading,
		concerns: func(d *demand) bool { return len(d.spreadSoftly) > 0 },
		kin:      func(d *demand, n *nodeInfo, key []byte) []byte { return kinOfSpread(d.spreadSoftly, n, key) },
		rank:     (*demand).rankSpread,
	}
}

// spreading reads the constraints, and by what nodes are left out of them.
func spreading(of, into *corev1.Pod) {
	into.Spec.TopologySpreadConstraints = of.Spec.TopologySpreadConstraints
	if len(of.Spec.TopologySpreadConstraints) > 0 {
		tolerations(of, into)
		nodeAffinity(of, into)
	}
}

// constraint is a topologySpreadConstraint with what it counts.
type constraint struct {
	*tally
	maxSkew, minDomains int64
	self                int64 // 1 where the pod counts itself
}

func kinOfSpread(list []constraint, n *nodeInfo, key []byte) []byte {
	for i := range list {
		key = list[i].kin(n, key)
	}
	return key
}

// skews says why a constraint keeps the pod from a node; empty: none does.
func (d *demand) skews(n *nodeInfo) string {
	for i := range d.spread {
		s := &d.spread[i]
		count, has := s.at(n)
		if !has {
			return unlabeled
		}
		least := s.least
		if int64(s.listed) < s.minDomains {
			least = 0
		}
		if count+s.self-least > s.maxSkew {
			return skewed
		}
	}
	return ""
}

// rankSpread scores nodes by the pods that are where they are, each constraint's by how many domains there are.
func (d *demand) rankSpread(spots []spot, scores []int64) {
	var room [4]float64 // pods have fewer constraints than that
	weights := append(room[:0], make([]float64, len(d.spreadSoftly))...)
	for i := range d.spreadSoftly {
		weights[i] = math.Log(float64(d.domains(i, spots) + 2))
	}
	least, most := int64(math.MaxInt64), int64(0)
	for i, spot := range spots {
		scores[i] = -1
		if d.leavesOut(spot.node) {
			continue
		}
		sum := 0.0
		for j := range d.spreadSoftly {
			s := &d.spreadSoftly[j]
			if count, has := s.at(spot.node); has {
				sum += float64(count)*weights[j] + float64(s.maxSkew-1)
			}
		}
		scores[i] = int64(math.Round(sum))
		least, most = min(least, scores[i]), max(most, scores[i])
	}
	for i := range scores {
		switch {
		case scores[i] < 0:
			scores[i] = 0
		case most == 0:
			scores[i] = best
		default:
			scores[i] = best * (most + least - scores[i]) / most
		}
	}
}

// needsTopologies says that nodes without the label of a constraint are left out: where they are kube-scheduler's defaults they are not.
func (d *demand) needsTopologies() bool { return !d.spreadByDefault || d.defaultsListed }

// leavesOut says that a node is not scored: it lacks a label, and the constraints are the pod's own.
func (d *demand) leavesOut(n *nodeInfo) bool {
	for i := range d.spreadSoftly {
		if d.spreadSoftly[i].of[n.at] < 0 && d.needsTopologies() {
			return true
		}
	}
	return false
}

// domains counts the domains of a constraint among the nodes that are scored. As for kube-scheduler, nodes without the label
// are a domain too where they are scored.
func (d *demand) domains(i int, spots []spot) (count int) {
	s := &d.spreadSoftly[i]
	var room [64]bool // most topologies have fewer domains than that
	seen := room[:0]
	for _, spot := range spots {
		domain := int(s.of[spot.node.at]) + 1
		switch {
		case d.leavesOut(spot.node):
			continue
		case s.unique && domain > 0:
			count += spot.nodes
			continue
		}
		for len(seen) <= domain {
			seen = append(seen, false)
		}
		if !seen[domain] {
			seen[domain] = true
			count++
		}
	}
	return count
}

// surveySpread counts what the constraints of the demand's pods, or the defaults, ask for.
func (d *demand) surveySpread(c *cluster) error {
	list, own := d.constraints, d.load.group
	weigh, among := func(*group) int64 { return 0 }, c.inside(own.namespace)
	if len(list) == 0 {
		list, d.spreadByDefault = d.defaults, true
		var spread bool
		if weigh, among, spread = c.byDefault(own); !spread {
			return nil
		}
	}
	var keys [2][]*topology // of those that can wait, and of those that cannot
	for i := range list {
		hard := hardness(&list[i])
		keys[hard] = append(keys[hard], c.topology(topologyKey{label: list[i].TopologyKey}))
	}
	for i := range list {
		from := &list[i]
		one := constraint{maxSkew: int64(from.MaxSkew), minDomains: 1}
		if from.MinDomains != nil {
			one.minDomains = int64(*from.MinDomains)
		}
		if d.spreadByDefault {
			one.self = 1 // it is one of those that it is spread among
		} else {
			selector, err := spreadSelector(from, own.labels)
			if err != nil {
				return fmt.Errorf("cannot read a topology spread constraint: %w", err)
			}
			if selector.Matches(own.labels) {
				one.self = 1
			}
			weigh = func(g *group) int64 {
				if g.leaving || g.namespace != own.namespace || selector.Empty() || !selector.Matches(g.labels) {
					return 0
				}
				return 1
			}
		}
		hard := hardness(from)
		topology := topologyKey{label: from.TopologyKey}
		var within []bool
		if hard == 0 && from.TopologyKey == corev1.LabelHostname {
			topology.each = true // each node is scored by the pods on it
		} else {
			within = d.spreadOver(c, from, keys[hard])
		}
		one.tally = c.newTally(c.topology(topology), within, among, weigh)
		if hard == 1 {
			one.follow()
			d.spread = append(d.spread, one)
		} else {
			d.spreadSoftly = append(d.spreadSoftly, one)
		}
	}
	return nil
}

func hardness(from *corev1.TopologySpreadConstraint) int {
	if from.WhenUnsatisfiable == corev1.DoNotSchedule {
		return 1
	}
	return 0
}

// spreadSelector is the selector of a constraint with what matchLabelKeys add to it.
func spreadSelector(from *corev1.TopologySpreadConstraint, own labels.Set) (labels.Selector, error) {
	selector, err := metav1.LabelSelectorAsSelector(from.LabelSelector)
	if err != nil {
		return nil, err
	}
	more := labels.Set{}
	for _, key := range from.MatchLabelKeys {
		if value, has := own[key]; has {
			more[key] = value
		}
	}
	requirements, selectable := selector.Requirements()
	if len(more) == 0 || !selectable {
		return selector, nil
	}
	return labels.SelectorFromSet(more).Add(requirements...), nil
}

// spreadOver are the nodes whose pods and domains a constraint counts; nil: all.
func (d *demand) spreadOver(c *cluster, from *corev1.TopologySpreadConstraint, keys []*topology) []bool {
	honors := func(policy *corev1.NodeInclusionPolicy, otherwise corev1.NodeInclusionPolicy) bool {
		if policy != nil {
			otherwise = *policy
		}
		return otherwise == corev1.NodeInclusionPolicyHonor
	}
	affinity := d.selective && honors(from.NodeAffinityPolicy, corev1.NodeInclusionPolicyHonor)
	taints := honors(from.NodeTaintsPolicy, corev1.NodeInclusionPolicyIgnore)
	lacking := slices.ContainsFunc(keys, func(t *topology) bool { return t.lacking }) && d.needsTopologies()
	if !affinity && !taints && !lacking {
		return nil
	}
	out, all := make([]bool, len(c.nodes)), true
	for i, n := range c.nodes {
		out[i] = (!affinity || d.selects(n, c)) && (!taints || d.toleratesAll(n.node.Spec.Taints))
		for _, t := range keys {
			out[i] = out[i] && (t.of[i] >= 0 || !d.needsTopologies())
		}
		all = all && out[i]
	}
	if all {
		return nil
	}
	return out
}

// byDefault says which pods a pod is spread among that says nothing of it: those of its controller, and of all the services that
// it is of; false: it has none of these.
func (c *cluster) byDefault(own *group) (func(*group) int64, iter.Seq[*group], bool) {
	selector := labels.Set{}
	for _, s := range c.services[own.namespace] {
		if len(s.Spec.Selector) > 0 && hasAll(own.labels, s.Spec.Selector) {
			maps.Copy(selector, s.Spec.Selector)
		}
	}
	among := c.inside(own.namespace)
	if own.owner != "" {
		among = c.owned(own.owner)
	}
	return func(g *group) int64 {
		if g.leaving || g.namespace != own.namespace || g.owner != own.owner && own.owner != "" || !hasAll(g.labels, selector) {
			return 0
		}
		return 1
	}, among, own.owner != "" || len(selector) > 0
}

func hasAll(have, want labels.Set) bool {
	for name, value := range want {
		if v, has := have[name]; !has || v != value {
			return false
		}
	}
	return true
}
