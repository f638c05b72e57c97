package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
)

// singlePods refuses all nodes while another pod mounts a claim that one pod alone may mount.
func singlePods() predicate {
	return predicate{
		name: "VolumeRestrictions", scope: across, wakes: PodGone, objects: volumeKinds(),
		concerns: func(d *demand) bool { return len(d.volumes.single) > 0 },
		check: func(d *demand, _ *nodeInfo, c *cluster) bool {
			return !slices.ContainsFunc(d.volumes.single, func(claim kinds.Key) bool { return c.users(claim) > 0 })
		},
		kin:  func(_ *demand, _ *nodeInfo, key []byte) []byte { return key },
		ends: func(*demand, *nodeInfo, *cluster) bool { return true },
		words: always("node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by " +
			"another pod"),
	}
}

// readSingles fails where a claim is not there. Claims that were made for a pod are its own.
func (v *volumes) readSingles(mounts []mount, c *cluster) error {
	for _, m := range mounts {
		if m.ephemeral() {
			continue
		}
		claim := c.claim(m.claim)
		if claim == nil {
			return barred(0, "persistentvolumeclaim %q not found", m.claim.Name)
		}
		if slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteOncePod) {
			v.single = append(v.single, m.claim)
		}
	}
	return nil
}
