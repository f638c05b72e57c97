package rebuild

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/kinds"
	"lockstep/store"
	"lockstep/store/view"
)

// name is what an owner is known by to what it owns.
type name struct{ kind, namespace, name string }

// owners are the uids that objects had which own what was brought back, where no object has them now.
func owners(v *view.View) map[name]types.UID {
	out := map[name]types.UID{}
	note := func(o kinds.Object) {
		for _, ref := range o.GetOwnerReferences() {
			if ref.UID != "" && v.ByUID(ref.UID) == nil {
				out[name{ref.Kind, o.GetNamespace(), ref.Name}] = ref.UID
			}
		}
	}
	for p := range view.List[*corev1.Pod](v, "") {
		note(p)
	}
	for c := range view.List[*corev1.PersistentVolumeClaim](v, "") {
		note(c)
	}
	return out
}

// born is an object that is created, as it was before: with its uid, where what it owns names that, and with as many replicas as
// there are pods of it, where nobody states how many: sized says whether somebody does. It is a copy, or the object itself where
// nothing changes.
func born(v *view.View, uids map[name]types.UID, o kinds.Object, sized func(kinds.Key) bool) kinds.Object {
	if o.GetUID() != "" {
		return o
	}
	uid := uids[name{kinds.Of(o).Kind, o.GetNamespace(), o.GetName()}]
	n, scaled := replicas(v, o, uid, sized)
	if uid == "" && !scaled {
		return o
	}
	o = o.DeepCopyObject().(kinds.Object)
	o.SetUID(uid)
	switch o := o.(type) {
	case *appsv1.Deployment:
		if scaled {
			o.Spec.Replicas = &n
		}
	case *appsv1.StatefulSet:
		if scaled {
			o.Spec.Replicas = &n
		}
	}
	return o
}

// replicas counts the pods of a Deployment or a StatefulSet whose manifest does not say how many there are to be: an autoscaler did.
func replicas(v *view.View, o kinds.Object, uid types.UID, sized func(kinds.Key) bool) (n int32, scaled bool) {
	switch o.(type) {
	case *appsv1.Deployment, *appsv1.StatefulSet:
	default:
		return 0, false
	}
	if sized(kinds.KeyOf(o)) {
		return 0, false
	}
	for p := range view.List[*corev1.Pod](v, o.GetNamespace()) {
		ref := metav1.GetControllerOfNoCopy(p)
		if ref == nil {
			continue
		}
		hash := p.Labels[appsv1.DefaultDeploymentUniqueLabelKey]
		if ref.UID == uid || ref.Kind == "ReplicaSet" && hash != "" && ref.Name == o.GetName()+"-"+hash {
			n++
		}
	}
	return n, n > 0
}

// keeps says that a reconciler's write is one that waits until it is known what is wanted: the end of a pod, a claim or a volume, and
// of a volume's binding.
func keeps(v *view.View, w store.Write) bool {
	key := keyOf(w)
	switch key.GroupResource() {
	case kinds.For[*corev1.Pod]().GroupResource(), kinds.For[*corev1.PersistentVolumeClaim]().GroupResource(),
		kinds.For[*corev1.PersistentVolume]().GroupResource():
	default:
		return false
	}
	if w.Record != nil {
		return false
	}
	if w.Object == nil {
		return true
	}
	live := v.Get(key)
	if live == nil {
		return false
	}
	if pv, is := w.Object.(*corev1.PersistentVolume); is && pv.Status.Phase == corev1.VolumeReleased &&
		live.(*corev1.PersistentVolume).Status.Phase != corev1.VolumeReleased {
		return true
	}
	return w.Object.GetDeletionTimestamp() != nil && live.GetDeletionTimestamp() == nil
}

// keyOf is the key of what is written; of a record it means nothing.
func keyOf(w store.Write) kinds.Key {
	if w.Object != nil {
		return kinds.KeyOf(w.Object)
	}
	return w.Key
}

// once says that a write could have a second one run, or begin without its data, of what a node may have that has not told: a pod that
// has one place gets a node, or a volume is made.
func once(v *view.View, w store.Write) bool {
	switch o := w.Object.(type) {
	case *corev1.PersistentVolume:
		return v.Get(keyOf(w)) == nil && o.Spec.ClaimRef != nil
	case *corev1.Pod:
		live, there := v.Get(keyOf(w)).(*corev1.Pod)
		if !there || live.Spec.NodeName != "" || o.Spec.NodeName == "" {
			return false
		}
		ref := metav1.GetControllerOfNoCopy(o)
		return ref == nil || ref.Kind == "StatefulSet" || ref.Kind == "Job"
	}
	return false
}
