package report

import (
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/store/view"
)

// Left is a claim or a volume that nothing asks for any more, and that stays, with its data, until somebody asks for its end.
type Left struct {
	Key kinds.Key
	// Size is its capacity as Kubernetes writes it, or what it asks for where it has none.
	Size string
	// Node is the one that has its data; empty: it is on no node alone, or has none.
	Node string
	// Why says who asked for it, as far as that is known, and what keeps it.
	Why string
}

// LeftOver are the claims that no source states, no StatefulSet has and no pod owns, and the volumes of claims that are gone, by their
// keys.
func LeftOver(v *view.View, stated func(*view.View, kinds.Key) bool) (all []Left) {
	for c := range view.List[*corev1.PersistentVolumeClaim](v, "") {
		if c.DeletionTimestamp != nil || metav1.GetControllerOfNoCopy(c) != nil || stated(v, kinds.KeyOf(c)) {
			continue
		}
		why := whose(v, c)
		if why == "" {
			continue
		}
		l := Left{Key: kinds.KeyOf(c), Size: sizeOf(c.Spec.Resources.Requests), Why: why}
		if pv, bound := view.Get[*corev1.PersistentVolume](v, "", c.Spec.VolumeName); bound {
			l.Size, l.Node = sizeOf(pv.Spec.Capacity), kinds.LocalPathOf(pv)
		} else {
			l.Why += "; it has no volume"
		}
		all = append(all, l)
	}
	for pv := range view.List[*corev1.PersistentVolume](v, "") {
		ref := pv.Spec.ClaimRef
		if pv.Status.Phase != corev1.VolumeReleased || ref == nil {
			continue
		}
		why := fmt.Sprintf("its claim %s/%s is gone, its policy is %s", ref.Namespace, ref.Name, pv.Spec.PersistentVolumeReclaimPolicy)
		if pv.Status.Message != "" {
			why += "; " + pv.Status.Message
		}
		all = append(all, Left{Key: kinds.KeyOf(pv), Size: sizeOf(pv.Spec.Capacity), Node: kinds.LocalPathOf(pv), Why: why})
	}
	slices.SortFunc(all, func(a, b Left) int { return strings.Compare(a.Key.Path(), b.Key.Path()) })
	return all
}

// whose says that nobody has a claim any more; empty: somebody has.
func whose(v *view.View, c *corev1.PersistentVolumeClaim) string {
	why := "no manifest states it, and no StatefulSet has it"
	for set := range view.List[*appsv1.StatefulSet](v, c.Namespace) {
		ordinal, ok := kinds.ReplicaOfClaim(set, c.Name)
		if !ok {
			continue
		}
		if kinds.HasOrdinal(set, ordinal) {
			return ""
		}
		why = fmt.Sprintf("StatefulSet %s/%s has no replica %d any more", set.Namespace, set.Name, ordinal)
	}
	return why
}

func sizeOf(list corev1.ResourceList) string {
	size := list[corev1.ResourceStorage]
	return size.String()
}
