package kinds

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/component-helpers/storage/volume"
)

const (
	// LocalPath is the provisioner whose volumes are directories of nodes, and files where they are block devices. It is the annotation,
	// too, by which a node says in which of its directories they are, and the finalizer that keeps a volume until its node has deleted what
	// is in it.
	LocalPath = "lockstep.dev/local-path"
	// LocalPathNode is the label of such a volume with the name of the node that has it.
	LocalPathNode = "lockstep.dev/node"
	// LocalPathMade is the annotation of a volume whose directory was made: its node says so, or it was removed from the cluster when
	// it had the volume. A node of that name without the directory does not make an empty one.
	LocalPathMade = "lockstep.dev/made"
	// LocalPathKept is the annotation of a volume that a source stated which is followed no longer, with the source's name: nobody
	// has asked for its data to be deleted.
	LocalPathKept = "lockstep.dev/kept"
	// LocalPathLarge is the annotation of a volume that is larger than all that its node has, and says what that was.
	LocalPathLarge = "lockstep.dev/larger-than"
	// LocalPathClass is the StorageClass of that provisioner which every cluster has.
	LocalPathClass = "local-path"
)

// LocalPathOf is the node that has a volume of LocalPath; empty: it is no such volume.
func LocalPathOf(pv *corev1.PersistentVolume) string {
	if pv.Annotations[volume.AnnDynamicallyProvisioned] != LocalPath {
		return ""
	}
	return pv.Labels[LocalPathNode]
}

// LocalPathMark is such a volume with a note that its directory is made.
func LocalPathMark(pv *corev1.PersistentVolume) *corev1.PersistentVolume {
	pv = pv.DeepCopy()
	pv.Annotations[LocalPathMade] = "true"
	return pv
}

// LocalPathLetGo is such a volume without the finalizer that its node keeps it by.
func LocalPathLetGo(pv *corev1.PersistentVolume) *corev1.PersistentVolume {
	pv = pv.DeepCopy()
	pv.Finalizers = slices.DeleteFunc(pv.Finalizers, func(f string) bool { return f == LocalPath })
	return pv
}

// LocalPathRefusal says what a directory, or a file, cannot be of what a claim of a class of LocalPath asks for; empty: it can be all.
func LocalPathRefusal(c *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) string {
	for _, mode := range c.Spec.AccessModes {
		if mode != corev1.ReadWriteOnce && mode != corev1.ReadWriteOncePod {
			return fmt.Sprintf("access mode %s is not supported: a directory of one node has %s and %s", mode, corev1.ReadWriteOnce,
				corev1.ReadWriteOncePod)
		}
	}
	parameters := slices.Sorted(maps.Keys(class.Parameters))
	switch {
	case c.Spec.Selector != nil:
		return "claim Selector is not supported"
	case len(parameters) > 0:
		return fmt.Sprintf("unknown parameter %q", parameters[0])
	case len(class.MountOptions) > 0:
		return "mount options are not supported"
	case len(class.AllowedTopologies) > 0:
		return "allowedTopologies are not supported"
	}
	return ""
}
