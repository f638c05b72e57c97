package scheduler

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/storage/volume"

	"lockstep/kinds"
)

// volumeZone is a label of a volume, and the values of it that a node may have.
type volumeZone struct {
	zoneLabel
	values []string
}

// zoneLabel is a label of zones or regions, and the one that stands in for it on nodes.
type zoneLabel struct{ label, newer string }

func zoneLabels() [4]zoneLabel {
	return [...]zoneLabel{
		{corev1.LabelFailureDomainBetaZone, corev1.LabelTopologyZone},
		{corev1.LabelFailureDomainBetaRegion, corev1.LabelTopologyRegion},
		{corev1.LabelTopologyZone, corev1.LabelTopologyZone},
		{corev1.LabelTopologyRegion, corev1.LabelTopologyRegion},
	}
}

// volumeZones refuses nodes in other zones and regions than the labels of the pod's volumes name. Nodes without such labels are in all.
func volumeZones() predicate {
	return predicate{
		name: "VolumeZone", scope: still, wakes: NodeLabels | VolumeChanged,
		objects:  volumeKinds(),
		concerns: func(d *demand) bool { return len(d.volumes.zones) > 0 },
		check:    (*demand).zonesFit, words: always("node(s) had no available volume zone"),
	}
}

func (d *demand) zonesFit(n *nodeInfo, _ *cluster) bool {
	labelled := false
	for _, z := range zoneLabels() {
		_, has := n.node.Labels[z.label]
		labelled = labelled || has
	}
	if !labelled {
		return true
	}
	for _, z := range d.volumes.zones {
		value, has := n.node.Labels[z.label]
		if !has {
			value, has = n.node.Labels[z.newer]
		}
		if !has || !slices.Contains(z.values, value) {
			return false
		}
	}
	return true
}

// readZones fails where a claim's volume is not there. Of claims that were made for a pod nothing is read.
func (v *volumes) readZones(mounts []mount, c *cluster) error {
	for _, m := range mounts {
		if m.ephemeral() {
			continue
		}
		claim := c.claim(m.claim)
		if claim.Spec.VolumeName == "" {
			if kinds.BindsLate(c.class(volume.GetPersistentVolumeClaimClass(claim))) {
				continue
			}
			return barred(0, "PersistentVolume had no name") // what VolumeBinding refuses before
		}
		pv := c.volume(claim.Spec.VolumeName)
		if pv == nil {
			return barred(VolumeChanged, "persistentvolume %q not found", claim.Spec.VolumeName)
		}
		for _, z := range zoneLabels() {
			if values := zonesIn(pv.Labels[z.label]); values != nil {
				v.zones = append(v.zones, volumeZone{z, values})
			}
		}
	}
	return nil
}

// zonesIn are the zones in a volume's label, "a__b"; nil: it says nothing that can be understood.
func zonesIn(label string) (out []string) {
	for _, zone := range strings.Split(label, "__") {
		if zone = strings.TrimSpace(zone); zone == "" {
			return nil
		}
		out = append(out, zone)
	}
	return out
}
