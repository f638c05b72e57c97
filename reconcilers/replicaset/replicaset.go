// Package replicaset keeps the wanted number of pods of every ReplicaSet.
package replicaset

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/reconcilers/pods"
	"lockstep/store/view"
)

// burst bounds how many pods one decision creates or deletes: Kubernetes' BurstReplicas.
const burst = 500

// New returns the reconciler of replica sets.
func New() loop.Reconciler {
	return loop.Reconciler{
		Name:      "replicaset",
		Component: "replicaset-controller",
		Owner:     kinds.For[*appsv1.ReplicaSet](),
		Reads: []loop.Read{
			{
				Kind: kinds.For[*corev1.Pod](),
				How:  "its controller; an orphan: those that select it",
				Keys: loop.ClaimantKeys(func(rs *appsv1.ReplicaSet) *metav1.LabelSelector { return rs.Spec.Selector }),
			},
			{Kind: kinds.For[*appsv1.ReplicaSet](), How: "siblings, for the order of deletion; wakes nothing"},
		},
		Writes: []loop.Write{
			{
				Kind: kinds.For[*corev1.Pod](), Create: true, Delete: true, Fields: []string{"metadata.ownerReferences"}, Children: true,
				Shared: map[string]string{"metadata.ownerReferences": loop.OwnReference},
			},
			{Kind: kinds.For[*appsv1.ReplicaSet](), Fields: []string{"status"}},
		},
		Decide: decide,
	}
}

func decide(v *view.View, key kinds.Key, now time.Time) (loop.Decision, error) {
	rs, ok := v.Get(key).(*appsv1.ReplicaSet)
	if !ok {
		return loop.Decision{}, nil
	}
	claims, err := pods.Claim(v, rs, rs.Spec.Selector)
	if err != nil {
		return loop.Decision{}, err
	}
	active := claims.Active
	d := loop.Decision{Wants: claims.Rest()}

	surplus := 0
	if rs.DeletionTimestamp == nil {
		surplus = len(active) - int(*rs.Spec.Replicas)
	}
	switch {
	case surplus < 0:
		d.Wants = append(d.Wants, claims.Keep(active)...)
		d.Wants = append(d.Wants, creations(rs, min(-surplus, burst), len(active))...)
	case surplus > 0:
		order := deletionOrder(v, rs, active, now)
		surplus = min(surplus, burst)
		for _, p := range order[:surplus] {
			drop := loop.DropOf(p, fmt.Sprintf("too many replicas: %d, need %d", len(active), *rs.Spec.Replicas))
			drop.Done = &loop.Event{Type: corev1.EventTypeNormal, Reason: "SuccessfulDelete", Message: "Deleted pod: {name}"}
			d.Drops = append(d.Drops, drop)
		}
		d.Wants = append(d.Wants, claims.Keep(order[surplus:])...)
	default:
		d.Wants = append(d.Wants, claims.Keep(active)...)
	}

	status, again := statusOf(rs, active, claims.Terminating, now)
	d.Again = again
	d.Status = withStatus(rs, status, nil, now)
	d.IfRefused = func(cause error) kinds.Object { return withStatus(rs, status, cause, now) }
	return d, nil
}

// creations wants n new pods of the template.
func creations(rs *appsv1.ReplicaSet, n, have int) []loop.Want {
	reason := fmt.Sprintf("too few replicas: %d, need %d", have, *rs.Spec.Replicas)
	wants := make([]loop.Want, n)
	for i := range wants {
		wants[i] = loop.Want{
			Object: pods.Of(rs, &rs.Spec.Template),
			Reason: reason,
			Done:   &loop.Event{Type: corev1.EventTypeNormal, Reason: "SuccessfulCreate", Message: "Created pod: {name}"},
			Failed: &loop.Event{Type: corev1.EventTypeWarning, Reason: "FailedCreate", Message: "Error creating: {cause}"},
		}
	}
	return wants
}
