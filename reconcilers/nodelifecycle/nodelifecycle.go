// Package nodelifecycle notices nodes that have fallen silent.
package nodelifecycle

import (
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/reconcilers/apiservers"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

const (
	// grace is how long a node may be silent. Kubernetes' --node-monitor-grace-period is 50 s of heartbeats every 10 s; here one comes
	// every 2 s, and is in the view within another second, so that four may be lost.
	grace = 10 * time.Second
	// startupGrace is how long a new node may take until its first heartbeat: Kubernetes' --node-startup-grace-period.
	startupGrace = 60 * time.Second
)

// ownTaints is why two loops write the taints of nodes.
const ownTaints = "one gives those that keep pods away, the other those that drive them out, each of its own keys and effect"

// New returns the reconciler of nodes' lives. Silence is held against a node only while an API server runs, and since one
// has run: while the control plane or etcd was away nobody could take heartbeats.
func New() loop.Reconciler {
	node := kinds.For[*corev1.Node]()
	return loop.Reconciler{
		Name:      "nodelifecycle",
		Component: "node-controller",
		Owner:     node,
		Reads: []loop.Read{
			{
				Kind: kinds.For[*coordinationv1.Lease](),
				How:  "of a node that was silent for long: that node",
				Keys: func(_ *view.View, o kinds.Object) []kinds.Key {
					if o.GetNamespace() != corev1.NamespaceNodeLease {
						return nil
					}
					return []kinds.Key{node.Key("", o.GetName())}
				},
				// A heartbeat in time changes nothing: the timer finds it when it looks.
				Changed: func(old, new kinds.Object) bool {
					return renewal(new.(*coordinationv1.Lease)).Sub(renewal(old.(*coordinationv1.Lease))) > grace/2 ||
						new.GetAnnotations()[kinds.ClockSkew] != old.GetAnnotations()[kinds.ClockSkew]
				},
			},
			{
				Kind:    kinds.For[*coordinationv1.Lease](),
				How:     "an API server's, unless it was renewed in time: all nodes",
				Keys:    nodesOfServer,
				Changed: apiservers.Changed,
			},
			{
				Kind: kinds.For[*corev1.Pod](),
				How:  "its node, when that is silent",
				Keys: func(v *view.View, o kinds.Object) []kinds.Key {
					n, ok := view.Get[*corev1.Node](v, "", o.(*corev1.Pod).Spec.NodeName)
					if !ok || !kinds.NodeSilent(n) {
						return nil
					}
					return []kinds.Key{kinds.KeyOf(n)}
				},
			},
		},
		Writes: []loop.Write{
			{
				Kind: node, Fields: []string{"spec.taints", "status.conditions"},
				Shared: map[string]string{"spec.taints": ownTaints, "status.conditions": loop.OwnCondition},
			},
			{
				Kind: kinds.For[*corev1.Pod](), Fields: []string{"status.conditions"},
				Shared: map[string]string{"status.conditions": loop.OwnCondition},
			},
		},
		Decide: func(v *view.View, key kinds.Key, now time.Time) (loop.Decision, error) {
			return decide(v, key, now), nil
		},
	}
}

// nodesOfServer maps an API server's lease to all nodes: any of them may have been silent for want of a server.
func nodesOfServer(v *view.View, o kinds.Object) (keys []kinds.Key) {
	if !apiservers.Is(o) {
		return nil
	}
	for n := range view.List[*corev1.Node](v, "") {
		keys = append(keys, kinds.KeyOf(n))
	}
	return keys
}

func renewal(l *coordinationv1.Lease) time.Time {
	if l.Spec.RenewTime == nil {
		return time.Time{}
	}
	return l.Spec.RenewTime.Time
}

func decide(v *view.View, key kinds.Key, now time.Time) loop.Decision {
	node, ok := v.Get(key).(*corev1.Node)
	if !ok {
		return loop.Decision{}
	}
	var d loop.Decision
	changed := node.DeepCopy()
	since, heard := apiservers.Since(v, now)
	switch due := silentAt(v, node, since); {
	case !heard: // nobody could have heard of it; the lease of the next server wakes all
	case due.After(now):
		d.Again = due
	default:
		silence(changed, now)
		if !kinds.NodeSilent(node) {
			d.Events = append(d.Events, loop.Event{
				Type: corev1.EventTypeNormal, Reason: "NodeNotReady",
				Message: fmt.Sprintf("Node %s status is now: NodeNotReady", node.Name),
			})
		}
	}
	if kinds.NodeSilent(changed) {
		unreadyPods(v, node, now, &d)
	}
	tellClock(v, changed, now, &d)
	taint(changed, now)
	if !equality.Semantic.DeepEqual(node, changed) {
		d.Wants = append(d.Wants, loop.Want{Object: changed, Reason: reason(node, changed)})
	}
	return d
}

func reason(old, new *corev1.Node) string {
	if kinds.NodeSilent(new) && !kinds.NodeSilent(old) {
		return "no heartbeat for " + grace.String()
	}
	if a, b := kinds.NodeCondition(old, kinds.NodeClock), kinds.NodeCondition(new, kinds.NodeClock); b != nil && (a == nil || *a != *b) {
		return b.Message
	}
	return "taints follow the conditions"
}

// silentAt is when the node counts as silent unless it is heard of.
func silentAt(v *view.View, node *corev1.Node, since time.Time) time.Time {
	heard := time.Time{}
	if lease, ok := view.Get[*coordinationv1.Lease](v, corev1.NamespaceNodeLease, node.Name); ok {
		heard = renewal(lease)
	}
	if c := kinds.NodeCondition(node, corev1.NodeReady); c != nil && c.LastHeartbeatTime.After(heard) {
		heard = c.LastHeartbeatTime.Time
	}
	if heard.IsZero() {
		return latest(node.CreationTimestamp.Add(startupGrace), since.Add(startupGrace))
	}
	return latest(heard.Add(grace), since.Add(grace))
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// silence sets the conditions that only a node itself can judge to Unknown.
func silence(n *corev1.Node, now time.Time) {
	at := metav1.NewTime(now.Truncate(time.Second))
	for _, t := range []corev1.NodeConditionType{
		corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure,
	} {
		c := kinds.NodeCondition(n, t)
		switch {
		case c == nil:
			n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{
				Type: t, Status: corev1.ConditionUnknown, Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
				LastHeartbeatTime: n.CreationTimestamp, LastTransitionTime: at,
			})
		case c.Status != corev1.ConditionUnknown:
			c.Status, c.Reason, c.Message = corev1.ConditionUnknown, "NodeStatusUnknown", "Kubelet stopped posting node status."
			c.LastTransitionTime = at
		}
	}
}

// tellClock says of a node whose clock is off that it is, until it is not any more.
func tellClock(v *view.View, n *corev1.Node, now time.Time, d *loop.Decision) {
	lease, ok := view.Get[*coordinationv1.Lease](v, corev1.NamespaceNodeLease, n.Name)
	if !ok {
		return
	}
	at := metav1.NewTime(now.Truncate(time.Second))
	is := corev1.NodeCondition{Type: kinds.NodeClock, Status: corev1.ConditionTrue, Reason: "ClocksAgree",
		Message: "its clock is the control plane's", LastHeartbeatTime: at, LastTransitionTime: at}
	off, err := time.ParseDuration(lease.Annotations[kinds.ClockSkew])
	if err == nil {
		is.Status, is.Reason = corev1.ConditionFalse, "ClockSkew"
		is.Message = fmt.Sprintf("its clock is %v ahead of the control plane's", off)
		if off < 0 {
			is.Message = fmt.Sprintf("its clock is %v behind the control plane's", -off)
		}
	}
	old := kinds.NodeCondition(n, kinds.NodeClock)
	switch {
	case old == nil && err != nil, old != nil && old.Status == is.Status && old.Message == is.Message:
		return
	case old == nil:
		n.Status.Conditions = append(n.Status.Conditions, is)
	default:
		*old = is
	}
	if is.Status == corev1.ConditionFalse {
		d.Events = append(d.Events, loop.Event{Type: corev1.EventTypeWarning, Reason: is.Reason, Message: is.Message})
	}
}

// unreadyPods takes the node's pods out of service: nobody knows how they are.
func unreadyPods(v *view.View, node *corev1.Node, now time.Time, d *loop.Decision) {
	for p := range v.PodsOnNode(node.Name) {
		if !podstatus.Ready(&p.Status) {
			continue
		}
		changed := p.DeepCopy()
		c := podstatus.Condition(&changed.Status, corev1.PodReady)
		c.Status, c.LastTransitionTime = corev1.ConditionFalse, metav1.NewTime(now.Truncate(time.Second))
		d.Wants = append(d.Wants, loop.Want{Object: changed, Reason: "its node is silent"})
		d.Events = append(d.Events, loop.Event{
			About:   p,
			Type:    corev1.EventTypeWarning,
			Reason:  "NodeNotReady",
			Message: "Node is not ready",
		})
	}
}

// taint brings the taints that stand for conditions, and for the cordon, up to date, and leaves all others alone: those that drive
// pods out are given by Evictions.
func taint(n *corev1.Node, now time.Time) {
	is := func(t corev1.NodeConditionType, s corev1.ConditionStatus) bool {
		c := kinds.NodeCondition(n, t)
		return c != nil && c.Status == s
	}
	notReady := is(corev1.NodeReady, corev1.ConditionFalse)
	unreachable := is(corev1.NodeReady, corev1.ConditionUnknown)
	for _, t := range []struct {
		key   string
		holds bool
	}{
		{corev1.TaintNodeNotReady, notReady},
		{corev1.TaintNodeUnreachable, unreachable},
		{corev1.TaintNodeMemoryPressure, is(corev1.NodeMemoryPressure, corev1.ConditionTrue)},
		{corev1.TaintNodeDiskPressure, is(corev1.NodeDiskPressure, corev1.ConditionTrue)},
		{corev1.TaintNodePIDPressure, is(corev1.NodePIDPressure, corev1.ConditionTrue)},
		{corev1.TaintNodeNetworkUnavailable, is(corev1.NodeNetworkUnavailable, corev1.ConditionTrue)},
		{corev1.TaintNodeUnschedulable, n.Spec.Unschedulable},
	} {
		hold(n, t.key, corev1.TaintEffectNoSchedule, t.holds, now)
	}
}
