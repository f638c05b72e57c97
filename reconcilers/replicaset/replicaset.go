// Package replicaset keeps the wanted number of pods of every ReplicaSet and ReplicationController.
package replicaset

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/reconcilers/pods"
	"lockstep/store/view"
)

// burst bounds how many pods one decision creates or deletes, to a turn of some 20 ms. Kubernetes' BurstReplicas, 500, spares an
// API on the other side of a network.
const burst = 1000

// New returns the reconciler of replica sets.
func New() loop.Reconciler {
	return reconciler("replicaset", "replicaset-controller", form[*appsv1.ReplicaSet]{
		set: func(rs *appsv1.ReplicaSet) *appsv1.ReplicaSet { return rs },
		withStatus: func(rs *appsv1.ReplicaSet, status appsv1.ReplicaSetStatus) kinds.Object {
			changed := rs.DeepCopy()
			changed.Status = status
			return changed
		},
		terminating: true,
	})
}

// form is a kind whose objects are replica sets, or stand for one.
type form[T kinds.Object] struct {
	// set is the replica set that an object is or stands for; it shares the object's memory.
	set func(T) *appsv1.ReplicaSet
	// withStatus is a copy of the object with the status of its replica set.
	withStatus func(T, appsv1.ReplicaSetStatus) kinds.Object
	// terminating says that the status counts pods that are ending.
	terminating bool
}

func reconciler[T kinds.Object](name, component string, f form[T]) loop.Reconciler {
	return loop.Reconciler{
		Name:      name,
		Component: component,
		Owner:     kinds.For[T](),
		Reads: []loop.Read{
			{
				Kind: kinds.For[*corev1.Pod](),
				How:  "its controller; an orphan: those that select it",
				Keys: loop.ClaimantKeys(func(o T) *metav1.LabelSelector { return f.set(o).Spec.Selector }),
			},
			{Kind: kinds.For[T](), How: "siblings, for the order of deletion; wakes nothing"},
		},
		Writes: []loop.Write{
			{
				Kind: kinds.For[*corev1.Pod](), Create: true, Delete: true, Fields: []string{"metadata.ownerReferences"}, Children: true,
				Shared: map[string]string{"metadata.ownerReferences": loop.OwnReference},
			},
			{Kind: kinds.For[T](), Fields: []string{"status"}},
		},
		Decide: f.decide,
	}
}

func (f form[T]) decide(v *view.View, key kinds.Key, now time.Time) (loop.Decision, error) {
	owner, ok := v.Get(key).(T)
	if !ok {
		return loop.Decision{}, nil
	}
	rs := f.set(owner)
	claims, err := pods.Claim(v, owner, rs.Spec.Selector)
	if err != nil {
		return loop.Decision{}, err
	}
	active := claims.Active
	d := loop.Decision{Wants: claims.Rest()}

	surplus := 0
	if rs.DeletionTimestamp == nil {
		surplus = len(active) - int(*rs.Spec.Replicas)
	}
	var waits error
	switch {
	case surplus < 0:
		var room int
		room, d.Again, waits = held(claims.Ended, int(*rs.Spec.Replicas), -surplus, now)
		d.Wants = append(d.Wants, claims.Keep("needed", active...)...)
		d.Wants = append(d.Wants, creations(owner, rs, min(room, burst), len(active))...)
	case surplus > 0:
		order := deletionOrder(active, rs.Spec.MinReadySeconds, f.podsPerNode(v, rs), now)
		surplus = min(surplus, burst)
		for _, p := range order[:surplus] {
			reason := fmt.Sprintf("too many replicas: %d, need %d", len(active), *rs.Spec.Replicas)
			d.Drops = append(d.Drops, pods.Deletion(p, reason))
		}
		d.Wants = append(d.Wants, claims.Keep("needed", order[surplus:]...)...)
	default:
		d.Wants = append(d.Wants, claims.Keep("needed", active...)...)
	}

	status, again := statusOf(rs, active, claims.Terminating, now)
	if !f.terminating {
		status.TerminatingReplicas = nil
	}
	if d.Again.IsZero() || !again.IsZero() && again.Before(d.Again) {
		d.Again = again
	}
	d.IfRefused = func(cause error) kinds.Object {
		told := withFailure(status, *rs.Spec.Replicas, cmp.Or(cause, waits), now)
		if equal(rs.Status, told) {
			return nil
		}
		return f.withStatus(owner, told)
	}
	d.Status = d.IfRefused(nil)
	return d, nil
}

// creations wants n new pods of the template.
func creations(owner kinds.Object, rs *appsv1.ReplicaSet, n, have int) []loop.Want {
	reason := fmt.Sprintf("too few replicas: %d, need %d", have, *rs.Spec.Replicas)
	return slices.Repeat([]loop.Want{pods.Creation(pods.Of(owner, &rs.Spec.Template), reason)}, n)
}
