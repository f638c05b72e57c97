// Package persistentvolume binds claims and volumes to each other, and says which of them is bound, free, released or lost.
//
// A binding has two sides, written one after the other so that two claims never have one volume: the volume names the claim, by
// uid; once that is seen the claim names the volume; then both say that they are bound.
package persistentvolume

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/component-helpers/storage/volume"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// component signs the events as Kubernetes' controller does.
const component = "persistentvolume-controller"

// ownReference is why loops share fields of volumes.
const ownReference = "one side gives a free volume to a claim, the other takes it from one that has another"

// Claims returns the reconciler that binds claims to volumes.
func Claims() loop.Reconciler {
	claim, pv := kinds.For[*corev1.PersistentVolumeClaim](), kinds.For[*corev1.PersistentVolume]()
	return loop.Reconciler{
		Name:      "persistentvolumeclaim",
		Component: component,
		Owner:     claim,
		Reads: []loop.Read{
			{Kind: pv, How: "the claim that it names, and those that wait for a volume", Keys: concerned, Changed: volumeChanged},
			{Kind: kinds.For[*storagev1.StorageClass](), How: "the claims that wait for a volume", Keys: waiting},
			{Kind: kinds.For[*corev1.Pod](), How: "the claims that it mounts and that wait for it", Keys: mounted, Changed: placed},
		},
		Writes: []loop.Write{
			{Kind: claim, Fields: []string{"spec.volumeName", "spec.storageClassName", "metadata.annotations", "status"},
				Shared: map[string]string{"metadata.annotations": loop.OwnNode}},
			{Kind: pv, Fields: []string{"spec.claimRef", "spec.capacity", "metadata.annotations"},
				Shared: map[string]string{"spec.claimRef": ownReference, "metadata.annotations": ownReference}},
		},
		Decide: func(v *view.View, key kinds.Key, _ time.Time) (loop.Decision, error) {
			c, ok := v.Get(key).(*corev1.PersistentVolumeClaim)
			if !ok {
				return loop.Decision{}, nil
			}
			if _, completed := c.Annotations[volume.AnnBindCompleted]; completed {
				return bound(v, c)
			}
			return unbound(v, c)
		},
	}
}

// concerned are the claims that a volume may be for.
func concerned(v *view.View, o kinds.Object) (keys []kinds.Key) {
	pv := o.(*corev1.PersistentVolume)
	claim := kinds.For[*corev1.PersistentVolumeClaim]()
	if ref := pv.Spec.ClaimRef; ref != nil {
		keys = append(keys, claim.Key(ref.Namespace, ref.Name))
	}
	for c := range view.List[*corev1.PersistentVolumeClaim](v, "") {
		switch c.Spec.VolumeName {
		case pv.Name:
		case "":
			if pv.Spec.ClaimRef != nil || volume.GetPersistentVolumeClaimClass(c) != volume.GetPersistentVolumeClass(pv) {
				continue
			}
		default:
			continue
		}
		keys = append(keys, kinds.KeyOf(c))
	}
	return keys
}

func volumeChanged(old, new kinds.Object) bool {
	if old == nil || new == nil {
		return true
	}
	was, pv := old.(*corev1.PersistentVolume), new.(*corev1.PersistentVolume)
	return was.Status.Phase != pv.Status.Phase || !was.DeletionTimestamp.Equal(pv.DeletionTimestamp) ||
		!equality.Semantic.DeepEqual(was.Labels, pv.Labels) || !equality.Semantic.DeepEqual(was.Spec, pv.Spec)
}

// waiting are the claims that have no volume, and those that may grow.
func waiting(v *view.View, o kinds.Object) (keys []kinds.Key) {
	for c := range view.List[*corev1.PersistentVolumeClaim](v, "") {
		class := volume.GetPersistentVolumeClaimClass(c)
		if class == o.GetName() || class == "" && c.Spec.VolumeName == "" {
			keys = append(keys, kinds.KeyOf(c))
		}
	}
	return keys
}

// mounted are the claims that a pod mounts and that have no volume.
func mounted(v *view.View, o kinds.Object) []kinds.Key {
	return claimsOf(v, o.(*corev1.Pod), func(c *corev1.PersistentVolumeClaim) bool { return c.Spec.VolumeName == "" })
}

// claimsOf are those of a pod's claims that are such.
func claimsOf(v *view.View, p *corev1.Pod, such func(*corev1.PersistentVolumeClaim) bool) (keys []kinds.Key) {
	for i := range p.Spec.Volumes {
		c, ok := view.Get[*corev1.PersistentVolumeClaim](v, p.Namespace, kinds.ClaimOf(p, &p.Spec.Volumes[i]))
		if ok && such(c) {
			keys = append(keys, kinds.KeyOf(c))
		}
	}
	return keys
}

func placed(old, new kinds.Object) bool {
	return old == nil || new == nil || old.(*corev1.Pod).Spec.NodeName != new.(*corev1.Pod).Spec.NodeName
}
