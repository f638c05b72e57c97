// Package statefulset keeps the pods of every StatefulSet, each under a name of its own.
package statefulset

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/reconcilers/revisions"
	"lockstep/store/view"
)

// hashLabel is Kubernetes' label of the revisions of a StatefulSet (pkg/controller/history).
const hashLabel = "controller.kubernetes.io/hash"

// New returns the reconciler of stateful sets.
func New() loop.Reconciler {
	claimants := loop.ClaimantKeys(selectorOf)
	return loop.Reconciler{
		Name:      "statefulset",
		Component: "statefulset-controller",
		Owner:     kinds.For[*appsv1.StatefulSet](),
		Reads: []loop.Read{
			{
				Kind: kinds.For[*corev1.Pod](),
				How:  "its controller; an orphan: those that select it; the one whose name it has taken",
				Keys: func(v *view.View, o kinds.Object) []kinds.Key { return append(claimants(v, o), namesake(v, o)...) },
			},
			{
				Kind: kinds.For[*corev1.PersistentVolumeClaim](), How: "the one that has it by a template", Keys: replicasOf,
				Changed: ownersChanged,
			},
			revisions.Reads(selectorOf),
		},
		Writes: []loop.Write{
			{
				Kind: kinds.For[*corev1.Pod](), Create: true, Delete: true, Children: true,
				Fields: []string{"metadata.ownerReferences", "metadata.labels"},
				Shared: map[string]string{"metadata.ownerReferences": loop.OwnReference},
			},
			{
				Kind: kinds.For[*corev1.PersistentVolumeClaim](), Create: true, Fields: []string{"metadata.ownerReferences"},
				Shared: map[string]string{"metadata.ownerReferences": loop.OwnReference},
			},
			revisions.Writes(),
			{Kind: kinds.For[*appsv1.StatefulSet](), Fields: []string{"status"}},
		},
		Decide: decide,
	}
}

func selectorOf(s *appsv1.StatefulSet) *metav1.LabelSelector { return s.Spec.Selector }

// namesake maps a pod to the stateful set that wants a pod of that name.
func namesake(v *view.View, o kinds.Object) []kinds.Key {
	set, _, ok := cut(o.GetName())
	if !ok {
		return nil
	}
	if _, ok := view.Get[*appsv1.StatefulSet](v, o.GetNamespace(), set); !ok {
		return nil
	}
	return []kinds.Key{kinds.For[*appsv1.StatefulSet]().Key(o.GetNamespace(), set)}
}

func decide(v *view.View, key kinds.Key, now time.Time) (loop.Decision, error) {
	set, ok := v.Get(key).(*appsv1.StatefulSet)
	if !ok {
		return loop.Decision{}, nil
	}
	selector, err := loop.Selector(set, set.Spec.Selector)
	if err != nil {
		return loop.Decision{}, err
	}
	history, err := revisions.Of(v, revisions.Owner{
		Object: set, Selector: selector, Template: &set.Spec.Template, HashLabel: hashLabel, Collisions: set.Status.CollisionCount,
	})
	if err != nil {
		return loop.Decision{}, err
	}
	r := rollout{view: v, set: set, now: now, history: history}
	if err := r.findRevisions(); err != nil {
		return loop.Decision{}, err
	}
	claims := loop.Claim(v, set, selector, func(p *corev1.Pod) bool {
		_, ok := ordinalOf(set, p)
		return ok && p.DeletionTimestamp == nil
	})
	r.place(claims)
	if set.DeletionTimestamp == nil {
		r.advance()
	}
	return r.decision(), nil
}
