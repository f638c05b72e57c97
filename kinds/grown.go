package kinds

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// GrowsOnNode says that a claim's volume has been made larger, and is to be so on the node that mounts it, too.
func GrowsOnNode(c *corev1.PersistentVolumeClaim) bool {
	switch c.Status.AllocatedResourceStatuses[corev1.ResourceStorage] {
	case corev1.PersistentVolumeClaimNodeResizePending, corev1.PersistentVolumeClaimNodeResizeInProgress:
		return true
	}
	return false
}

// Grown is a claim as its node leaves it whose volume is as large there as it was made.
func Grown(c *corev1.PersistentVolumeClaim) *corev1.PersistentVolumeClaim {
	out := c.DeepCopy()
	if out.Status.Capacity == nil {
		out.Status.Capacity = corev1.ResourceList{}
	}
	if size, ok := out.Status.AllocatedResources[corev1.ResourceStorage]; ok {
		out.Status.Capacity[corev1.ResourceStorage] = size
	}
	delete(out.Status.AllocatedResourceStatuses, corev1.ResourceStorage)
	out.Status.Conditions = slices.DeleteFunc(out.Status.Conditions, func(o corev1.PersistentVolumeClaimCondition) bool {
		return slices.Contains([]corev1.PersistentVolumeClaimConditionType{corev1.PersistentVolumeClaimResizing,
			corev1.PersistentVolumeClaimFileSystemResizePending, corev1.PersistentVolumeClaimControllerResizeError,
			corev1.PersistentVolumeClaimNodeResizeError}, o.Type)
	})
	return out
}
