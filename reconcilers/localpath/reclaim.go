package localpath

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// Reclaimer returns the reconciler that gives up volumes whose claim is gone, where their policy says so. Stated says that a source
// states an object, which is then the source's to remove; nil: none does.
func Reclaimer(stated func(*view.View, kinds.Key) bool) loop.Reconciler {
	pv := kinds.For[*corev1.PersistentVolume]()
	return loop.Reconciler{
		Name:      "reclaim",
		Component: component,
		Owner:     pv,
		Records:   true,
		Reads: []loop.Read{
			{Kind: kinds.For[*corev1.Node](), How: "the volumes on it that wait for it", Keys: onNode, Changed: nodeChanged},
			{Kind: kinds.For[*corev1.PersistentVolumeClaim](), How: "the volume that it has", Keys: had,
				Changed: func(_, new kinds.Object) bool { return new == nil }},
		},
		Writes: []loop.Write{{
			Kind: pv, Delete: true, Fields: []string{"metadata.finalizers", "status"},
			Shared: map[string]string{"metadata.finalizers": loop.OwnFinalizer, "status": loop.OwnPhase},
		}},
		Decide: func(v *view.View, key kinds.Key, _ time.Time) (loop.Decision, error) {
			pv, ok := v.Get(key).(*corev1.PersistentVolume)
			if !ok || kinds.LocalPathOf(pv) == "" || !slices.Contains(pv.Finalizers, kinds.LocalPath) {
				return loop.Decision{}, nil
			}
			return reclaim(v, pv, stated != nil && stated(v, key)), nil
		},
	}
}

// onNode are the volumes that wait for a node.
func onNode(v *view.View, o kinds.Object) (keys []kinds.Key) {
	for pv := range view.List[*corev1.PersistentVolume](v, "") {
		if kinds.LocalPathOf(pv) == o.GetName() && (pv.DeletionTimestamp != nil || pv.Status.Phase == corev1.VolumeReleased) {
			keys = append(keys, kinds.KeyOf(pv))
		}
	}
	return keys
}

// had is the volume that a claim is bound to.
func had(_ *view.View, o kinds.Object) []kinds.Key {
	name := o.(*corev1.PersistentVolumeClaim).Spec.VolumeName
	if name == "" {
		return nil
	}
	return []kinds.Key{kinds.For[*corev1.PersistentVolume]().Key("", name)}
}

// reclaim decides about a volume.
func reclaim(v *view.View, pv *corev1.PersistentVolume, stated bool) (d loop.Decision) {
	released := pv.Status.Phase == corev1.VolumeReleased && !claimThere(v, pv)
	remove := pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete
	if pv.DeletionTimestamp == nil && (!released || !remove || stated) {
		return waitsFor(pv, "")
	}
	if source := pv.Annotations[kinds.LocalPathKept]; pv.DeletionTimestamp == nil && source != "" {
		return waitsFor(pv, fmt.Sprintf("source %q, which stated it, is followed no longer: state it in another one, and remove it there, "+
			"to have its data deleted", source))
	}
	name := kinds.LocalPathOf(pv)
	node, there := view.Get[*corev1.Node](v, "", name)
	switch {
	case !there && pv.DeletionTimestamp != nil:
		if slices.Contains(pv.Finalizers, kinds.VolumeProtection) {
			return d
		}
		d.Wants = []loop.Want{{Object: kinds.LocalPathLetGo(pv), Reason: "its node is gone, with what it has of it"}}
		d.Events = []loop.Event{warning("VolumeFailedDelete",
			fmt.Sprintf("node %q not found: what it had of the volume stays there", name))}
		return d
	case there && silent(node):
		return waitsFor(pv, fmt.Sprintf("waiting for node %q, which is silent, to delete its data", name))
	case pv.DeletionTimestamp != nil:
		return waitsFor(pv, fmt.Sprintf("waiting for node %q to delete its data", name))
	}
	d.Drops = []loop.Drop{loop.DropOf(pv, "its claim is gone, and its policy is Delete")}
	return d
}

// claimThere says whether the claim that a volume was given to is there.
func claimThere(v *view.View, pv *corev1.PersistentVolume) bool {
	ref := pv.Spec.ClaimRef
	if ref == nil {
		return false
	}
	c, ok := view.Get[*corev1.PersistentVolumeClaim](v, ref.Namespace, ref.Name)
	return ok && (ref.UID == "" || c.UID == ref.UID)
}

// waitsFor says in a released volume's status what it waits for; empty: nothing.
func waitsFor(pv *corev1.PersistentVolume, message string) (d loop.Decision) {
	if pv.Status.Phase == corev1.VolumeReleased && pv.Status.Message != message {
		changed := pv.DeepCopy()
		changed.Status.Message = message
		d.Status = changed
	}
	return d
}
