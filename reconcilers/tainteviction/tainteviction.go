// Package tainteviction drives pods out of nodes by taints that they do not tolerate, or not any longer.
package tainteviction

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// Due is the annotation of a pod that tolerates its node's taints for a time only: when it is driven out. As in Kubernetes, where the
// controller has it in memory, other taints and tolerations do not move it, until none drives the pod out any more.
const Due = "lockstep.dev/driven-out-at"

// New returns the reconciler.
func New() loop.Reconciler {
	pod := kinds.For[*corev1.Pod]()
	return loop.Reconciler{
		Name:      "tainteviction",
		Component: "taint-eviction-controller",
		Reads: []loop.Read{
			{
				Kind: pod, How: "itself, where its node has a taint that drives out", Keys: endangered,
				Changed: func(old, new kinds.Object) bool {
					a, b := old.(*corev1.Pod), new.(*corev1.Pod)
					return a.Spec.NodeName != b.Spec.NodeName || a.Annotations[Due] != b.Annotations[Due] ||
						!equality.Semantic.DeepEqual(a.Spec.Tolerations, b.Spec.Tolerations)
				},
			},
			{
				Kind: kinds.For[*corev1.Node](), How: "its pods, where taints that drive out change", Keys: podsOn,
				Changed: func(old, new kinds.Object) bool {
					return !equality.Semantic.DeepEqual(driving(old.(*corev1.Node)), driving(new.(*corev1.Node)))
				},
			},
		},
		Writes: []loop.Write{{
			Kind: pod, Delete: true, Fields: []string{"metadata.annotations." + Due, "status.conditions"},
			Shared: map[string]string{"status.conditions": loop.OwnCondition},
		}},
		Decide: func(v *view.View, key kinds.Key, now time.Time) (loop.Decision, error) {
			p, ok := v.Get(key).(*corev1.Pod)
			if !ok || p.DeletionTimestamp != nil {
				return loop.Decision{}, nil
			}
			n, ok := view.Get[*corev1.Node](v, "", p.Spec.NodeName)
			if !ok {
				return loop.Decision{}, nil
			}
			return decide(p, driving(n), now), nil
		},
	}
}

// endangered leaves out most pods: of a thousand new ones each would take a turn.
func endangered(v *view.View, o kinds.Object) []kinds.Key {
	p := o.(*corev1.Pod)
	n, ok := view.Get[*corev1.Node](v, "", p.Spec.NodeName)
	if p.Annotations[Due] == "" && (!ok || len(driving(n)) == 0) {
		return nil
	}
	return loop.Self(v, o)
}

func podsOn(v *view.View, o kinds.Object) (keys []kinds.Key) {
	drives := len(driving(o.(*corev1.Node))) > 0
	for p := range v.PodsOnNode(o.GetName()) {
		if drives || p.Annotations[Due] != "" {
			keys = append(keys, kinds.KeyOf(p))
		}
	}
	return keys
}

// driving are the taints of a node that drive pods out.
func driving(n *corev1.Node) (taints []corev1.Taint) {
	for _, t := range n.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoExecute {
			taints = append(taints, t)
		}
	}
	return taints
}

// decide is about a pod of a node with these taints.
func decide(p *corev1.Pod, taints []corev1.Taint, now time.Time) loop.Decision {
	after, forever, by := stays(p, taints)
	due, set := dueAt(p)
	switch {
	case forever && p.Annotations[Due] == "":
		return loop.Decision{}
	case forever:
		return loop.Decision{Wants: []loop.Want{{Object: with(p, ""), Reason: "no taint drives it out any more"}},
			Events: []loop.Event{told(p, "Cancelling deletion of Pod ")}}
	case !set || after == 0:
		if set && due.After(now) {
			d := evict(p, by, now)
			d.Events = append([]loop.Event{told(p, "Cancelling deletion of Pod ")}, d.Events...)
			return d
		}
		due = now.Add(after)
	}
	if !due.After(now) {
		return evict(p, by, now)
	}
	d := loop.Decision{Again: due}
	if !set {
		d.Wants = []loop.Want{{Object: with(p, due.UTC().Format(time.RFC3339Nano)),
			Reason: fmt.Sprintf("it tolerates taint %s for %s", by.ToString(), after)}}
	}
	return d
}

// stays is how long a pod stays with taints that came just now, and by which of them it goes.
func stays(p *corev1.Pod, taints []corev1.Taint) (least time.Duration, forever bool, by *corev1.Taint) {
	for i := range taints {
		d, always, ok := kinds.Tolerates(p, &taints[i])
		switch {
		case !ok:
			return 0, false, &taints[i]
		case !always && (by == nil || d < least):
			least, by = d, &taints[i]
		}
	}
	return least, by == nil, by
}

// dueAt is when the pod is driven out, where that is noted. What cannot be read is noted anew.
func dueAt(p *corev1.Pod) (time.Time, bool) {
	at, err := time.Parse(time.RFC3339Nano, p.Annotations[Due])
	return at, err == nil
}

// with is the pod with another note; empty: without one.
func with(p *corev1.Pod, due string) *corev1.Pod {
	changed := p.DeepCopy()
	if due == "" {
		delete(changed.Annotations, Due)
		return changed
	}
	if changed.Annotations == nil {
		changed.Annotations = map[string]string{}
	}
	changed.Annotations[Due] = due
	return changed
}

// evict ends a pod as it wants to be ended, and says in its status why, in Kubernetes' words.
func evict(p *corev1.Pod, by *corev1.Taint, now time.Time) loop.Decision {
	changed := p.DeepCopy()
	podstatus.Disrupted(changed, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint", now)
	drop := loop.DropOf(p, "driven out by taint "+by.ToString())
	drop.As = changed
	return loop.Decision{Drops: []loop.Drop{drop}, Events: []loop.Event{told(p, "Marking for deletion Pod ")}}
}

func told(p *corev1.Pod, message string) loop.Event {
	return loop.Event{About: p, Type: corev1.EventTypeNormal, Reason: kinds.TaintEviction, Message: message + p.Namespace + "/" + p.Name}
}
