package persistentvolume

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/storage/volume"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
)

// grow lets a bound claim that asks for more have it, where its volume can be larger. Whether its class allows it was asked when
// the claim was changed. One that is a directory grows when it is said to be larger.
func grow(c *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) (d loop.Decision) {
	asked, told := c.Spec.Resources.Requests[corev1.ResourceStorage], c.Status.Capacity[corev1.ResourceStorage]
	size := pv.Spec.Capacity[corev1.ResourceStorage]
	switch {
	case pv.Annotations[volume.AnnDynamicallyProvisioned] != kinds.LocalPath:
		if asked.Cmp(told) > 0 {
			d.Events = normal("ExternalExpanding", "waiting for an external controller to expand this PVC")
		}
	case asked.Cmp(size) > 0:
		changed := pv.DeepCopy()
		changed.Spec.Capacity[corev1.ResourceStorage] = asked
		d.Wants = []loop.Want{{Object: changed, Reason: "its claim asks for more"}}
	case size.Cmp(told) > 0:
		d.Status = withStatus(c, func(s *corev1.PersistentVolumeClaimStatus) {
			s.Capacity = corev1.ResourceList{corev1.ResourceStorage: size}
			s.AllocatedResources = corev1.ResourceList{corev1.ResourceStorage: size}
		})
		d.Events = normal("VolumeResizeSuccessful", "Resize volume succeeded")
	}
	return d
}
