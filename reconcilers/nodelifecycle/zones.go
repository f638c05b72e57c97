package nodelifecycle

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/node/topology"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// Kubernetes' figures of its node lifecycle controller.
const (
	// evictionPeriod is the time between two nodes of a zone whose pods are driven out: --node-eviction-rate is 0.1 a second.
	evictionPeriod = 10 * time.Second
	// slowPeriod is that in a large zone of which most is not ready: --secondary-node-eviction-rate is 0.01 a second.
	slowPeriod = 100 * time.Second
	// large is how many nodes a zone has more than, that pods are driven out at all where most is not ready:
	// --large-cluster-size-threshold.
	large = 50
	// most is what part of a zone is not ready where most is: --unhealthy-zone-threshold, in hundredths.
	most = 55
	// few nodes may fail without a zone being disrupted.
	few = 2
)

// Evictions returns the reconciler that has pods driven out of nodes which are not ready, by their taints: one node at a time in each
// zone, and none at all where it is more likely the network that fails.
func Evictions() loop.Reconciler {
	node := kinds.For[*corev1.Node]()
	return loop.Reconciler{
		Name:      "nodeeviction",
		Component: "node-controller",
		Single:    true,
		Reads: []loop.Read{{
			Kind: node, How: "all, where readiness, zone or taints of one change", Keys: loop.Cluster,
			Changed: func(old, new kinds.Object) bool {
				a, b := old.(*corev1.Node), new.(*corev1.Node)
				return readiness(a) != readiness(b) || topology.GetZoneKey(a) != topology.GetZoneKey(b) ||
					!equality.Semantic.DeepEqual(a.Spec.Taints, b.Spec.Taints)
			},
		}},
		Writes: []loop.Write{{Kind: node, Fields: []string{"spec.taints"}, Shared: map[string]string{"spec.taints": ownTaints}}},
		Decide: func(v *view.View, _ kinds.Key, now time.Time) (loop.Decision, error) {
			return evict(slices.Collect(view.List[*corev1.Node](v, "")), now), nil
		},
	}
}

// disruption is how much of a zone is not ready, in Kubernetes' words.
type disruption string

const (
	normal  disruption = "Normal"
	partial disruption = "PartialDisruption"
	full    disruption = "FullDisruption"
)

// zone is the nodes that fail together.
type zone struct {
	nodes, failed []*corev1.Node
	tainted       time.Time // when pods were last begun to be driven out of one of them; zero: of none that still fails
}

// state is that of Kubernetes' controller.
func (z *zone) state() disruption {
	switch all, failed := len(z.nodes), len(z.failed); {
	case failed > 0 && failed == all:
		return full
	case failed > few && failed*100 >= most*all:
		return partial
	}
	return normal
}

// period is how long pods of another node stay after those of one; not ok: for as long as the zone is as it is.
func (z *zone) period() (d time.Duration, ok bool) {
	switch {
	case z.state() != partial:
		return evictionPeriod, true
	case len(z.nodes) > large:
		return slowPeriod, true
	}
	return 0, false
}

// readiness is what the Ready condition says; of a node that has none it is Unknown, as for Kubernetes' zones.
func readiness(n *corev1.Node) corev1.ConditionStatus {
	if c := kinds.NodeCondition(n, corev1.NodeReady); c != nil {
		return c.Status
	}
	return corev1.ConditionUnknown
}

func evict(nodes []*corev1.Node, now time.Time) (d loop.Decision) {
	zones := map[string]*zone{}
	var names []string
	disrupted := true
	for _, n := range nodes {
		name := topology.GetZoneKey(n)
		if zones[name] == nil {
			zones[name] = &zone{}
			names = append(names, name)
		}
		zones[name].add(n)
	}
	slices.Sort(names)
	for _, name := range names {
		disrupted = disrupted && zones[name].state() == full
	}
	for _, name := range names {
		zones[name].decide(disrupted, now, &d)
	}
	return d
}

func (z *zone) add(n *corev1.Node) {
	z.nodes = append(z.nodes, n)
	if readiness(n) == corev1.ConditionTrue {
		return
	}
	z.failed = append(z.failed, n)
	if at := drivenSince(n); at.After(z.tainted) {
		z.tainted = at
	}
}

// drivenSince is when pods were begun to be driven out of a node; zero: they are not.
func drivenSince(n *corev1.Node) (at time.Time) {
	for _, t := range n.Spec.Taints {
		if ours(t) && t.TimeAdded != nil && t.TimeAdded.After(at) {
			at = t.TimeAdded.Time
		}
	}
	return at
}

func ours(t corev1.Taint) bool {
	return t.Effect == corev1.TaintEffectNoExecute && (t.Key == corev1.TaintNodeNotReady || t.Key == corev1.TaintNodeUnreachable)
}

// decide gives the zone's nodes their taints, or takes them away. Where every zone is disrupted nobody is driven out, and who is about to
// be stays.
func (z *zone) decide(disrupted bool, now time.Time, d *loop.Decision) {
	want := func(n *corev1.Node, driven bool, reason string) {
		changed := n.DeepCopy()
		hold(changed, corev1.TaintNodeNotReady, corev1.TaintEffectNoExecute, driven && readiness(n) == corev1.ConditionFalse, now)
		hold(changed, corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute, driven && readiness(n) == corev1.ConditionUnknown, now)
		if !equality.Semantic.DeepEqual(n, changed) {
			d.Wants = append(d.Wants, loop.Want{Object: changed, Reason: reason})
		}
	}
	var waiting []*corev1.Node
	for _, n := range z.nodes {
		switch {
		case readiness(n) == corev1.ConditionTrue:
			want(n, false, "it is ready")
		case disrupted:
			want(n, false, "no zone has a node that is ready")
		case slices.ContainsFunc(n.Spec.Taints, ours):
			want(n, true, "taints follow the conditions")
		case kinds.NodeCondition(n, corev1.NodeReady) != nil: // else it has just come
			waiting = append(waiting, n)
		}
	}
	period, ok := z.period()
	if disrupted || !ok || len(waiting) == 0 {
		return
	}
	slices.SortFunc(waiting, func(a, b *corev1.Node) int {
		return cmp.Or(since(a).Compare(since(b)), cmp.Compare(a.Name, b.Name))
	})
	due := now
	if !z.tainted.IsZero() {
		due = latest(now, z.tainted.Add(period))
	}
	if !due.After(now) {
		want(waiting[0], true, fmt.Sprintf("not ready, its zone's state is %s", z.state()))
		waiting, due = waiting[1:], now.Add(period)
	}
	if len(waiting) > 0 && (d.Again.IsZero() || due.Before(d.Again)) {
		d.Again = due
	}
}

// since is when a node stopped to be ready.
func since(n *corev1.Node) time.Time {
	return kinds.NodeCondition(n, corev1.NodeReady).LastTransitionTime.Time
}

// hold gives a node a taint, or takes it away.
func hold(n *corev1.Node, key string, effect corev1.TaintEffect, holds bool, now time.Time) {
	i := slices.IndexFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == key && t.Effect == effect })
	switch {
	case holds && i < 0:
		at := metav1.NewTime(now.Truncate(time.Second))
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: effect, TimeAdded: &at})
	case !holds && i >= 0:
		n.Spec.Taints = slices.Delete(n.Spec.Taints, i, i+1)
	}
}
