package daemon

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/storage/volume"

	"lockstep/daemon/control"
	"lockstep/kinds"
	"lockstep/store/view"
)

// volumesOnlyOn are the bound volumes that no node but the one of this name can reach, by claim.
func volumesOnlyOn(v *view.View, node string) []control.VolumeReport {
	out := []control.VolumeReport{}
	for pv := range view.List[*corev1.PersistentVolume](v, "") {
		if ref := pv.Spec.ClaimRef; ref != nil && pv.Status.Phase == corev1.VolumeBound && onlyOn(v, pv, node) {
			out = append(out, control.VolumeReport{Name: pv.Name, Claim: ref.Namespace + "/" + ref.Name, Path: pathOf(pv)})
		}
	}
	slices.SortFunc(out, func(a, b control.VolumeReport) int {
		return cmp.Or(cmp.Compare(a.Claim, b.Claim), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// onlyOn says whether a volume's data are on the machine of one node.
func onlyOn(v *view.View, pv *corev1.PersistentVolume, node string) bool {
	if of := kinds.LocalPathOf(pv); of != "" {
		return of == node
	}
	if pathOf(pv) == "" || pv.Spec.NodeAffinity == nil {
		return false
	}
	there := false
	for n := range view.List[*corev1.Node](v, "") {
		if volume.CheckNodeAffinity(pv, n.Labels) != nil {
			continue
		}
		if n.Name != node {
			return false
		}
		there = true
	}
	return there
}

// pathOf is where a volume is on its node; empty: it is elsewhere.
func pathOf(pv *corev1.PersistentVolume) string {
	switch s := pv.Spec.PersistentVolumeSource; {
	case s.Local != nil:
		return s.Local.Path
	case s.HostPath != nil:
		return s.HostPath.Path
	}
	return ""
}
