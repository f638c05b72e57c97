// Package deployment rolls the pod templates of Deployments out through ReplicaSets.
package deployment

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// New returns the reconciler of deployments.
func New() loop.Reconciler {
	return loop.Reconciler{
		Name:      "deployment",
		Component: "deployment-controller",
		Owner:     kinds.For[*appsv1.Deployment](),
		Reads: []loop.Read{
			{
				Kind: kinds.For[*appsv1.ReplicaSet](),
				How:  "its controller; an orphan: those that select it",
				Keys: loop.ClaimantKeys(func(d *appsv1.Deployment) *metav1.LabelSelector { return d.Spec.Selector }),
			},
			{
				Kind:    kinds.For[*corev1.Pod](),
				How:     "one that ended or is gone: its replica set's controller, if that recreates",
				Keys:    recreatingOwner,
				Changed: func(old, new kinds.Object) bool { return podstatus.Finished(&new.(*corev1.Pod).Status) },
			},
		},
		Writes: []loop.Write{
			{
				Kind: kinds.For[*appsv1.ReplicaSet](), Create: true, Delete: true, Children: true,
				Fields: []string{"metadata.ownerReferences", "metadata.annotations", "spec.replicas", "spec.minReadySeconds"},
				Shared: map[string]string{"metadata.ownerReferences": loop.OwnReference, "spec.replicas": loop.OwnSize},
			},
			{Kind: kinds.For[*appsv1.Deployment](), Fields: []string{"metadata.annotations." + revisionAnnotation, "status"}},
		},
		Decide: decide,
	}
}

// recreatingOwner maps a pod to its deployment, where that waits for old pods to end before it starts new ones.
func recreatingOwner(v *view.View, o kinds.Object) []kinds.Key {
	ref := metav1.GetControllerOfNoCopy(o)
	if ref == nil {
		return nil
	}
	rs, ok := v.ByUID(ref.UID).(*appsv1.ReplicaSet)
	if !ok {
		return nil
	}
	if ref = metav1.GetControllerOfNoCopy(rs); ref == nil {
		return nil
	}
	d, ok := v.ByUID(ref.UID).(*appsv1.Deployment)
	if !ok || d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType {
		return nil
	}
	return []kinds.Key{kinds.KeyOf(d)}
}

func decide(v *view.View, key kinds.Key, now time.Time) (loop.Decision, error) {
	d, ok := v.Get(key).(*appsv1.Deployment)
	if !ok {
		return loop.Decision{}, nil
	}
	selector, err := loop.Selector(d, d.Spec.Selector)
	if err != nil {
		return loop.Decision{}, err
	}
	if selector.Empty() {
		return loop.Decision{Events: []loop.Event{{
			Type: corev1.EventTypeWarning, Reason: "SelectingAll",
			Message: "This deployment is selecting all pods. A non-empty selector is required.",
		}}}, nil
	}
	claims := loop.Claim(v, d, selector, func(rs *appsv1.ReplicaSet) bool { return rs.DeletionTimestamp == nil })
	r := newRollout(v, d, claims, now)
	if d.DeletionTimestamp != nil {
		r.syncRevision()
		r.syncStatus()
		return r.decision(), nil
	}
	r.pausing()
	switch {
	case d.Spec.Paused:
		r.syncRevision()
		r.scale()
		r.dropHistory()
		r.syncStatus()
	case r.scaling():
		r.syncRevision()
		r.scale()
		r.syncStatus()
	case d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		r.recreate()
	default:
		r.roll()
	}
	return r.decision(), nil
}
