package kinds

import (
	"crypto/sha256"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/component-helpers/storage/volume"
)

const (
	// CSIControllers is the annotation of a CSINode with the drivers whose controller service is reached through the node, joined by
	// commas.
	CSIControllers = "lockstep.dev/csi-controllers"
	// CSINamespace is the annotation of a CSIDriver with the namespace of its pods: those that may be its controller, and in which its
	// capacity is told.
	CSINamespace = "lockstep.dev/csi-namespace"
)

// CSIOf is what a volume says of its CSI driver; nil: it is of none.
func CSIOf(pv *corev1.PersistentVolume) *corev1.CSIPersistentVolumeSource {
	if pv == nil {
		return nil
	}
	return pv.Spec.CSI
}

// CSIMade is the finalizer of a volume that its CSI driver is to delete, that of Kubernetes' external provisioner.
const CSIMade = "external-provisioner.volume.kubernetes.io/finalizer"

// CSIDeletes says that a volume was made by its CSI driver, which deletes it where its policy says so.
func CSIDeletes(pv *corev1.PersistentVolume) bool {
	source := CSIOf(pv)
	return source != nil && pv.Annotations[volume.AnnDynamicallyProvisioned] == source.Driver && slices.Contains(pv.Finalizers, CSIMade)
}

// CSIVolumeName is how nodes name a volume of a CSI driver in volumesInUse and volumesAttached of their status.
func CSIVolumeName(source *corev1.CSIPersistentVolumeSource) corev1.UniqueVolumeName {
	return corev1.UniqueVolumeName("kubernetes.io/csi/" + source.Driver + "^" + source.VolumeHandle)
}

// AttachmentName is the name of the VolumeAttachment of a volume to a node, which is Kubernetes' own.
func AttachmentName(source *corev1.CSIPersistentVolumeSource, node string) string {
	return fmt.Sprintf("csi-%x", sha256.Sum256([]byte(source.VolumeHandle+source.Driver+node)))
}

// Attaches says that volumes of a driver have to be attached to a node before they are mounted there, which is so where nothing else
// is said: the driver may be nil.
func Attaches(driver *storagev1.CSIDriver) bool {
	return driver == nil || driver.Spec.AttachRequired == nil || *driver.Spec.AttachRequired
}

// AttachedVolume is the name of the volume that an attachment is of; empty: it names none.
func AttachedVolume(attachment *storagev1.VolumeAttachment) string {
	if name := attachment.Spec.Source.PersistentVolumeName; name != nil {
		return *name
	}
	return ""
}

// UsesVolume says that a node reports a volume as in use: it mounts it, or is about to.
func UsesVolume(n *corev1.Node, name corev1.UniqueVolumeName) bool {
	return slices.Contains(n.Status.VolumesInUse, name)
}

// OutOfService says that somebody vouches that nothing of a node runs any more.
func OutOfService(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}
