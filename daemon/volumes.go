package daemon

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"lockstep/daemon/control"
	"lockstep/kinds"
	"lockstep/store/view"
)

// volumesOnlyOn are the bound volumes that no node but the one of this name can reach, by claim.
func volumesOnlyOn(v *view.View, node string) []control.VolumeReport {
	out := []control.VolumeReport{}
	for pv := range view.List[*corev1.PersistentVolume](v, "") {
		ref := pv.Spec.ClaimRef
		if ref != nil && pv.Status.Phase == corev1.VolumeBound && kinds.DataOnlyOn(pv, node, view.List[*corev1.Node](v, "")) {
			out = append(out, control.VolumeReport{Name: pv.Name, Claim: ref.Namespace + "/" + ref.Name, Path: kinds.PathOnNode(pv)})
		}
	}
	slices.SortFunc(out, func(a, b control.VolumeReport) int {
		return cmp.Or(cmp.Compare(a.Claim, b.Claim), cmp.Compare(a.Name, b.Name))
	})
	return out
}
