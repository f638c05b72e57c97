package garbagecollection

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/reconcilers/loop"
	"lockstep/reconcilers/pods"
	"lockstep/store/view"
)

const (
	// quarantine is how old a pod must be to be removed for want of its node: Kubernetes' pod garbage collector waits as
	// long for a node that is just being registered.
	quarantine = 40 * time.Second
	// FinishedLimit is how many finished pods are kept: Kubernetes' --terminated-pod-gc-threshold.
	FinishedLimit = 12500
	// heldPeriod is how often it is looked whether the Job of a pod has counted it, which takes it a moment.
	heldPeriod = time.Second
	// finishedPeriod is how often they are counted: Kubernetes' gcCheckPeriod.
	finishedPeriod = 20 * time.Second
)

// Pods returns the reconciler that deletes pods which no node can end: those of nodes that are gone, and those that are
// being deleted and never had one.
func Pods() loop.Reconciler {
	pod := kinds.For[*corev1.Pod]()
	return loop.Reconciler{
		Name:      "podgc",
		Component: "pod-garbage-collector",
		Reads: []loop.Read{
			{
				Kind: pod, How: "itself, once it is bound or being deleted", Keys: boundOrGoing,
				Changed: func(old, new kinds.Object) bool {
					return old.(*corev1.Pod).Spec.NodeName != new.(*corev1.Pod).Spec.NodeName || new.GetDeletionTimestamp() != nil
				},
			},
			{
				Kind: kinds.For[*corev1.Node](), How: "when it is gone, or out of service: its pods", Keys: podsOfGone,
				Changed: func(old, new kinds.Object) bool {
					a, b := old.(*corev1.Node), new.(*corev1.Node)
					return kinds.OutOfService(a) != kinds.OutOfService(b) || kinds.NodeReady(a) != kinds.NodeReady(b)
				},
			},
			{Kind: kinds.For[*batchv1.Job](), How: "whether it has counted a pod; wakes nothing"},
		},
		Writes: []loop.Write{{
			Kind: pod, Delete: true, Fields: []string{"status.phase", "status.conditions"},
			Shared: map[string]string{"status.conditions": loop.OwnCondition},
		}},
		Decide: decidePod,
	}
}

// boundOrGoing leaves out the pods of which nothing is to be decided: of a thousand new ones each would take a turn.
func boundOrGoing(v *view.View, o kinds.Object) []kinds.Key {
	if p := o.(*corev1.Pod); p.Spec.NodeName == "" && p.DeletionTimestamp == nil {
		return nil
	}
	return loop.Self(v, o)
}

// offDuty is why pods go that their node has not ended: somebody has said that it is off.
const offDuty = "its node is out of service"

func podsOfGone(v *view.View, node kinds.Object) []kinds.Key {
	now, there := v.Get(kinds.KeyOf(node)).(*corev1.Node)
	if there && !kinds.OutOfService(now) {
		return nil
	}
	var keys []kinds.Key
	for p := range v.PodsOnNode(node.GetName()) {
		if !there || p.DeletionTimestamp != nil {
			keys = append(keys, kinds.KeyOf(p))
		}
	}
	return keys
}

func decidePod(v *view.View, key kinds.Key, now time.Time) (loop.Decision, error) {
	p, ok := v.Get(key).(*corev1.Pod)
	if !ok {
		return loop.Decision{}, nil
	}
	job := pods.HeldBy(v, p)
	drop := func(reason string) (loop.Decision, error) {
		d := loop.DropOf(p, reason)
		d.Now = true
		return loop.Decision{Drops: []loop.Drop{d}}, nil
	}
	if p.Spec.NodeName == "" {
		if p.DeletionTimestamp == nil {
			return loop.Decision{}, nil
		}
		if job != nil {
			return lost(p, "it was never bound", now), nil
		}
		return drop("it is being deleted and was never bound")
	}
	if node, ok := view.Get[*corev1.Node](v, "", p.Spec.NodeName); ok {
		if p.DeletionTimestamp == nil || kinds.NodeReady(node) || !kinds.OutOfService(node) {
			return loop.Decision{}, nil
		}
		if job != nil {
			return lost(p, offDuty, now), nil
		}
		return drop(offDuty)
	}
	if due := p.CreationTimestamp.Add(quarantine); due.After(now) {
		return loop.Decision{Again: due}, nil
	}
	why := fmt.Sprintf("its node %s is gone", p.Spec.NodeName)
	if job != nil {
		return lost(p, why, now), nil
	}
	return drop(why)
}

// lost brings a pod that no node can end to where its Job counts it: it is to be deleted, then it has failed. One that has ended
// stays until its Job has.
func lost(p *corev1.Pod, why string, now time.Time) loop.Decision {
	switch {
	case podstatus.Finished(&p.Status):
		again := quarantine
		if p.DeletionTimestamp != nil {
			again = heldPeriod
		}
		return loop.Decision{Again: now.Add(again)}
	case p.DeletionTimestamp == nil:
		return loop.Decision{Drops: []loop.Drop{loop.DropOf(p, why)}}
	}
	failed := p.DeepCopy()
	failed.Status.Phase = corev1.PodFailed
	if why != offDuty { // of that one Kubernetes says nothing more than before
		podstatus.Disrupted(failed, "DeletionByPodGC", "PodGC: node no longer exists", now)
	}
	return loop.Decision{Wants: []loop.Want{{Object: failed, Reason: why}}, Again: now.Add(heldPeriod)}
}

// FinishedPods returns the reconciler that keeps the number of finished pods within a limit.
func FinishedPods(limit int) loop.Reconciler {
	return loop.Reconciler{
		Name:      "finishedpods",
		Component: "pod-garbage-collector",
		Single:    true,
		Reads: []loop.Read{
			{Kind: kinds.For[*corev1.Pod](), How: "counts the finished ones from time to time"},
			{Kind: kinds.For[*batchv1.Job](), How: "whether it has counted a pod; wakes nothing"},
		},
		Writes: []loop.Write{{Kind: kinds.For[*corev1.Pod](), Delete: true}},
		Decide: func(v *view.View, _ kinds.Key, now time.Time) (loop.Decision, error) {
			return decideFinished(v, now, limit), nil
		},
	}
}

// decideFinished drops finished pods past the limit, the evicted first, then the oldest.
func decideFinished(v *view.View, now time.Time, limit int) loop.Decision {
	d := loop.Decision{Again: now.Add(finishedPeriod)}
	var finished []*corev1.Pod
	for p := range view.List[*corev1.Pod](v, "") {
		if podstatus.Finished(&p.Status) && p.DeletionTimestamp == nil && pods.HeldBy(v, p) == nil {
			finished = append(finished, p)
		}
	}
	if len(finished) <= limit {
		return d
	}
	kept := func(p *corev1.Pod) int {
		if p.Status.Reason == "Evicted" {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(finished, func(a, b *corev1.Pod) int {
		return cmp.Or(cmp.Compare(kept(a), kept(b)), a.CreationTimestamp.Compare(b.CreationTimestamp.Time))
	})
	for _, p := range finished[:len(finished)-limit] {
		d.Drops = append(d.Drops, loop.DropOf(p, fmt.Sprintf("more than %d finished pods", limit)))
	}
	return d
}
