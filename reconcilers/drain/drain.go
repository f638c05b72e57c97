// Package drain has pods leave the nodes whose manifests ask for that, as far as PodDisruptionBudgets let them.
package drain

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	scheduling "k8s.io/component-helpers/scheduling/corev1"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/reconcilers/disruption"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// New returns the reconciler. It decides about all nodes at once, so that two of them never spend one budget twice.
func New() loop.Reconciler {
	node, pod, budget := kinds.For[*corev1.Node](), kinds.For[*corev1.Pod](), kinds.For[*policyv1.PodDisruptionBudget]()
	return loop.Reconciler{
		Name:      "drain",
		Component: "drain-controller",
		Single:    true,
		Reads: []loop.Read{
			{
				Kind: node, How: "all that are drained, where one begins or ends to be", Keys: loop.Cluster,
				Changed: func(old, new kinds.Object) bool { return asked(old.(*corev1.Node)) != asked(new.(*corev1.Node)) },
			},
			{Kind: pod, How: "where its node is drained", Keys: func(v *view.View, o kinds.Object) []kinds.Key {
				if n, ok := view.Get[*corev1.Node](v, "", o.(*corev1.Pod).Spec.NodeName); !ok || !kinds.Asked(n, kinds.DrainNode) {
					return nil
				}
				return loop.Cluster(v, o)
			}},
			{Kind: budget, How: "while a node is drained", Keys: func(v *view.View, o kinds.Object) []kinds.Key {
				for n := range view.List[*corev1.Node](v, "") {
					if kinds.Asked(n, kinds.DrainNode) {
						return loop.Cluster(v, o)
					}
				}
				return nil
			}},
			{Kind: kinds.For[*corev1.PersistentVolumeClaim](), How: "whose data are on the node; wakes nothing"},
			{Kind: kinds.For[*corev1.PersistentVolume](), How: "whose data are on the node; wakes nothing"},
		},
		Writes: []loop.Write{
			{
				Kind: node, Fields: []string{"status.conditions"},
				Shared: map[string]string{"status.conditions": loop.OwnCondition},
			},
			{
				Kind: pod, Delete: true, Fields: []string{"status.conditions"},
				Shared: map[string]string{"status.conditions": loop.OwnCondition},
			},
		},
		Decide: func(v *view.View, _ kinds.Key, now time.Time) (loop.Decision, error) { return decide(v, now), nil },
	}
}

// asked is what a node's manifest asks for, and what is told of it.
func asked(n *corev1.Node) (a struct {
	drain, local bool
	told         string
}) {
	a.drain, a.local = kinds.Asked(n, kinds.DrainNode), kinds.Asked(n, kinds.DrainLocalData)
	if c := kinds.NodeCondition(n, kinds.NodeDrained); c != nil {
		a.told = string(c.Status) + c.Message
	}
	return a
}

func decide(v *view.View, now time.Time) (d loop.Decision) {
	budgets := disruption.NewBudgets(v)
	for n := range view.List[*corev1.Node](v, "") {
		changed := n.DeepCopy()
		if kinds.Asked(n, kinds.DrainNode) {
			of := leave(v, n, budgets, now, &d)
			tell(changed, of, now)
			if c := kinds.NodeCondition(n, kinds.NodeDrained); of.left == 0 && (c == nil || c.Status != corev1.ConditionTrue) {
				d.Events = append(d.Events, loop.Event{About: n, Type: corev1.EventTypeNormal, Reason: kinds.Drained, Message: of.text()})
			}
		} else {
			changed.Status.Conditions = slices.DeleteFunc(changed.Status.Conditions, func(c corev1.NodeCondition) bool {
				return c.Type == kinds.NodeDrained
			})
		}
		if !equality.Semantic.DeepEqual(n, changed) {
			d.Wants = append(d.Wants, loop.Want{Object: changed, Reason: "how far it is drained"})
		}
	}
	return d
}

// progress is how far a node is drained.
type progress struct {
	left  int
	waits string   // the first that waits, and for what
	stay  []string // with their data
}

func (p progress) text() string {
	var parts []string
	switch p.left {
	case 0:
		parts = append(parts, "no pods left")
	case 1:
		parts = append(parts, "1 pod left")
	default:
		parts = append(parts, fmt.Sprintf("%d pods left", p.left))
	}
	if p.waits != "" {
		parts = append(parts, p.waits)
	}
	switch n := len(p.stay); {
	case n == 1:
		parts = append(parts, p.stay[0]+" stays with its data")
	case n > 1:
		parts = append(parts, fmt.Sprintf("%s and %d more stay with their data", p.stay[0], n-1))
	}
	return strings.Join(parts, "; ")
}

// leave evicts of a node the pods that may go now: those of the lowest priority first, and the next once they have ended, but for those
// that a budget holds up.
func leave(v *view.View, n *corev1.Node, budgets *disruption.Budgets, now time.Time, d *loop.Decision) (of progress) {
	var pods []*corev1.Pod
	for p := range v.PodsOnNode(n.Name) {
		switch {
		case kinds.StaysOnDrain(p):
		case !kinds.Asked(n, kinds.DrainLocalData) && p.DeletionTimestamp == nil && len(kinds.ClaimsOnlyOn(p, n.Name, v)) > 0:
			of.stay = append(of.stay, p.Namespace+"/"+p.Name)
		default:
			pods = append(pods, p)
		}
	}
	slices.Sort(of.stay)
	slices.SortFunc(pods, func(a, b *corev1.Pod) int {
		return cmp.Or(cmp.Compare(scheduling.PodPriority(a), scheduling.PodPriority(b)),
			cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	of.left = len(pods)
	var turn *int32 // the priority of the pods that are ending
	for _, p := range pods {
		if p.DeletionTimestamp != nil {
			turn = new(scheduling.PodPriority(p))
			break
		}
	}
	for _, p := range pods {
		if p.DeletionTimestamp != nil || turn != nil && scheduling.PodPriority(p) > *turn {
			continue
		}
		if why := waits(budgets, p); why != "" {
			if of.waits == "" {
				of.waits = p.Namespace + "/" + p.Name + " " + why
			}
			continue
		}
		turn = new(scheduling.PodPriority(p))
		evict(n, p, now, d)
	}
	return of
}

// evict ends a pod as Kubernetes' eviction does, with its own grace.
func evict(n *corev1.Node, p *corev1.Pod, now time.Time, d *loop.Decision) {
	last := p.DeepCopy()
	podstatus.Evicted(last, now)
	drop := loop.DropOf(p, "node "+n.Name+" is drained")
	drop.As = last
	d.Drops = append(d.Drops, drop)
	d.Events = append(d.Events, loop.Event{
		About: p, Type: corev1.EventTypeNormal, Reason: kinds.Drained, Message: "Evicted, since node " + n.Name + " is drained",
	})
}

// tell puts into the node's status how far it is.
func tell(n *corev1.Node, of progress, now time.Time) {
	at := metav1.NewTime(now.Truncate(time.Second))
	is := corev1.NodeCondition{Type: kinds.NodeDrained, Status: corev1.ConditionTrue, Reason: "PodsHaveLeft", Message: of.text(),
		LastHeartbeatTime: at, LastTransitionTime: at}
	if of.left > 0 {
		is.Status, is.Reason = corev1.ConditionFalse, "PodsLeft"
	}
	old := kinds.NodeCondition(n, kinds.NodeDrained)
	switch {
	case old == nil:
		n.Status.Conditions = append(n.Status.Conditions, is)
	case old.Status != is.Status:
		*old = is
	case old.Message != is.Message:
		is.LastTransitionTime = old.LastTransitionTime
		*old = is
	}
}

// waits says why a pod may not be evicted now; empty: it may, and what that costs is spent.
func waits(budgets *disruption.Budgets, p *corev1.Pod) string {
	switch answer, of := budgets.Judge(p); answer {
	case disruption.Several:
		return fmt.Sprintf("has more than one PodDisruptionBudget: %s, %s", of[0].Name, of[1].Name)
	case disruption.Spent, disruption.Unseen:
		return "waits for budget " + of[0].Name
	}
	return ""
}
