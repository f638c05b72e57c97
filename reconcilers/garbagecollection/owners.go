// Package garbagecollection removes what has outlived its reason to be.
package garbagecollection

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

const references = "metadata.ownerReferences"

// Owners returns the reconciler that deletes objects whose owners are all gone (Kubernetes' background propagation).
func Owners() loop.Reconciler {
	r := loop.Reconciler{
		Name:      "garbagecollection",
		Component: "garbage-collector-controller",
		Decide:    decideOwned,
	}
	for _, k := range kinds.All {
		if k.Expires == kinds.Yes {
			r.Reads = append(r.Reads, loop.Read{Kind: k, How: "an owner; wakes nothing"})
			continue
		}
		r.Reads = append(r.Reads, loop.Read{
			Kind: k, How: "itself, where an owner is missing; when it is gone, what it owned", Keys: dependents,
			Changed: func(old, new kinds.Object) bool {
				return old.GetUID() != new.GetUID() || !equality.Semantic.DeepEqual(old.GetOwnerReferences(), new.GetOwnerReferences())
			},
		})
		w := loop.Write{Kind: k, Delete: true, Fields: []string{references}}
		// Endpoints are given up by their service where a source states them; claims are a StatefulSet's as its policy says.
		if k.Adoptable == kinds.Yes || k == kinds.For[*corev1.Endpoints]() || k == kinds.For[*corev1.PersistentVolumeClaim]() {
			w.Shared = map[string]string{references: "only references to what is gone are taken away"}
		}
		r.Writes = append(r.Writes, w)
	}
	return r
}

// dependents maps an object of which an owner is missing to itself, and one that is gone to what it owned.
func dependents(v *view.View, o kinds.Object) []kinds.Key {
	key := kinds.KeyOf(o)
	var keys []kinds.Key
	missing := func(ref metav1.OwnerReference) bool { return !owns(v, ref, o) }
	if slices.ContainsFunc(o.GetOwnerReferences(), missing) {
		keys = append(keys, key)
	}
	if now := v.Get(key); now == nil || now.GetUID() != o.GetUID() {
		for owned := range v.Dependents(o.GetUID()) {
			keys = append(keys, kinds.KeyOf(owned))
		}
	}
	return keys
}

func decideOwned(v *view.View, key kinds.Key, _ time.Time) (loop.Decision, error) {
	o := v.Get(key)
	if o == nil || o.GetDeletionTimestamp() != nil || len(o.GetOwnerReferences()) == 0 {
		return loop.Decision{}, nil
	}
	refs := slices.DeleteFunc(slices.Clone(o.GetOwnerReferences()), func(ref metav1.OwnerReference) bool { return !owns(v, ref, o) })
	switch len(refs) {
	case len(o.GetOwnerReferences()):
		return loop.Decision{}, nil
	case 0:
		return loop.Decision{Drops: []loop.Drop{loop.DropOf(o, "its owner is gone")}}, nil
	}
	changed := o.DeepCopyObject().(kinds.Object)
	changed.SetOwnerReferences(refs)
	return loop.Decision{Wants: []loop.Want{{Object: changed, Reason: "one of its owners is gone"}}}, nil
}

// owns says that the owner an object names is there. As in Kubernetes, one in another namespace is none.
func owns(v *view.View, ref metav1.OwnerReference, o kinds.Object) bool {
	owner := v.ByUID(ref.UID)
	return owner != nil && (owner.GetNamespace() == "" || owner.GetNamespace() == o.GetNamespace())
}
