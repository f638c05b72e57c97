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

const (
	references = "metadata.ownerReferences"
	finalizers = "metadata.finalizers"
)

// Owners returns the reconciler that deletes objects whose owners are all gone (Kubernetes' background propagation), and takes them
// from those that leave them when they go.
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
				return old.GetUID() != new.GetUID() || leaves(old) != leaves(new) ||
					!equality.Semantic.DeepEqual(old.GetOwnerReferences(), new.GetOwnerReferences())
			},
		})
		w := loop.Write{Kind: k, Delete: true, Fields: []string{references}}
		if _, pod, _ := k.Pods(k.New()); pod != nil && k != kinds.For[*corev1.Pod]() {
			w.Fields = append(w.Fields, finalizers)
		}
		// Endpoints are given up by their service where a source states them; claims are a StatefulSet's as its policy says.
		if k.Adoptable == kinds.Yes || k == kinds.For[*corev1.Endpoints]() || k == kinds.For[*corev1.PersistentVolumeClaim]() {
			w.Shared = map[string]string{references: "only references to what is gone are taken away"}
		}
		r.Writes = append(r.Writes, w)
	}
	return r
}

// leaves says that an object which is being deleted is to be taken from what it owns first.
func leaves(o kinds.Object) bool {
	return o.GetDeletionTimestamp() != nil && slices.Contains(o.GetFinalizers(), metav1.FinalizerOrphanDependents)
}

// dependents maps an object of which an owner is missing to itself, one that is gone, or leaves it, to what it owned, and what it
// owned to one that leaves it.
func dependents(v *view.View, o kinds.Object) []kinds.Key {
	key := kinds.KeyOf(o)
	var keys []kinds.Key
	for _, ref := range o.GetOwnerReferences() {
		if !owns(v, ref, o) {
			keys = append(keys, key)
		} else if owner := v.ByUID(ref.UID); owner != nil && leaves(owner) {
			keys = append(keys, key, kinds.KeyOf(owner))
		}
	}
	now := v.Get(key)
	if now == nil || now.GetUID() != o.GetUID() || leaves(now) {
		for owned := range v.Dependents(o.GetUID()) {
			keys = append(keys, kinds.KeyOf(owned))
		}
	}
	if leaves(o) {
		keys = append(keys, key)
	}
	return keys
}

func decideOwned(v *view.View, key kinds.Key, _ time.Time) (loop.Decision, error) {
	o := v.Get(key)
	if o == nil {
		return loop.Decision{}, nil
	}
	all := o.GetOwnerReferences()
	left := slices.DeleteFunc(slices.Clone(all), func(ref metav1.OwnerReference) bool {
		owner := v.ByUID(ref.UID)
		return owns(v, ref, o) && owner != nil && leaves(owner)
	})
	there := slices.DeleteFunc(slices.Clone(left), func(ref metav1.OwnerReference) bool { return !owns(v, ref, o) })
	switch {
	case leaves(o) && !owned(v, o):
		return update(o, "nothing is its own any more", func(changed kinds.Object) {
			orphan := func(f string) bool { return f == metav1.FinalizerOrphanDependents }
			changed.SetFinalizers(slices.DeleteFunc(changed.GetFinalizers(), orphan))
		}), nil
	case len(left) < len(all):
		return update(o, "its owner is deleted, and leaves it", func(changed kinds.Object) { changed.SetOwnerReferences(left) }), nil
	case o.GetDeletionTimestamp() != nil, len(there) == len(all):
		return loop.Decision{}, nil
	case len(there) == 0:
		return loop.Decision{Drops: []loop.Drop{loop.DropOf(o, "its owner is gone")}}, nil
	}
	return update(o, "one of its owners is gone", func(changed kinds.Object) { changed.SetOwnerReferences(there) }), nil
}

func update(o kinds.Object, reason string, change func(kinds.Object)) loop.Decision {
	changed := o.DeepCopyObject().(kinds.Object)
	change(changed)
	return loop.Decision{Wants: []loop.Want{{Object: changed, Reason: reason}}}
}

// owned says that anything names o as an owner.
func owned(v *view.View, o kinds.Object) bool {
	for d := range v.Dependents(o.GetUID()) {
		if d.GetNamespace() == o.GetNamespace() {
			return true
		}
	}
	return false
}

// owns says that the owner an object names is there. As in Kubernetes, one in another namespace is none. One that is stored and
// cannot be read may be it.
func owns(v *view.View, ref metav1.OwnerReference, o kinds.Object) bool {
	for k := range v.AllUnreadable() {
		if kind := kinds.ForResource(k.GroupResource()); kind.Kind == ref.Kind && k.Name == ref.Name &&
			(k.Namespace == "" || k.Namespace == o.GetNamespace()) {
			return true
		}
	}
	owner := v.ByUID(ref.UID)
	return owner != nil && (owner.GetNamespace() == "" || owner.GetNamespace() == o.GetNamespace())
}
