package localpath

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"lockstep/kinds"
)

// step is what is next for a volume.
type step int

const (
	keep   step = iota // nothing
	forget             // nobody needs it of this node any more, and its data stay
	remove             // its data go
)

// next decides about a volume as the API has it, and says why. Data go only where the cluster has given the volume up for good: it
// is being deleted, which nothing undoes, nobody else keeps it, it is not bound, and its policy is Delete.
func next(pv *corev1.PersistentVolume, node string) (step, string) {
	switch {
	case kinds.LocalPathOf(pv) != node:
		return keep, "it is another node's"
	case pv.DeletionTimestamp == nil || !slices.Contains(pv.Finalizers, kinds.LocalPath):
		return keep, "it is not being deleted"
	case pv.Status.Phase == corev1.VolumeBound || slices.Contains(pv.Finalizers, kinds.VolumeProtection):
		return keep, "it is bound, or was a moment ago"
	case pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete:
		return forget, "its policy is " + string(pv.Spec.PersistentVolumeReclaimPolicy)
	}
	return remove, "its claim is gone, and its policy is Delete"
}

// over says that a volume takes more than its capacity, to which its file system may hold it; empty: it does not.
func over(pv *corev1.PersistentVolume, used uint64, held bool) string {
	capacity := pv.Spec.Capacity[corev1.ResourceStorage]
	if capacity.Value() < 0 || used <= uint64(capacity.Value()) {
		return ""
	}
	text := fmt.Sprintf("Usage %s of volume %s is over its capacity of %s",
		resource.NewQuantity(int64(used), resource.BinarySI), pv.Name, capacity.String())
	if !held {
		text += ", which nothing enforces"
	}
	return text
}
