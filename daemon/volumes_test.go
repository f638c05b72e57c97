package daemon

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/daemon/control"
	"lockstep/kinds"
	"lockstep/store/view"
)

// TestVolumesOnlyOn: those that are bound, and on the machine of one node by provisioner or by affinity.
func TestVolumesOnlyOn(t *testing.T) {
	node := func(name string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}
	}
	local := corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/data"}}
	volume := func(name string, source corev1.PersistentVolumeSource, hosts ...string) *corev1.PersistentVolume {
		pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeSource: source, ClaimRef: &corev1.ObjectReference{Namespace: "shop", Name: "of-" + name},
		}, Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeBound}}
		if len(hosts) > 0 {
			pv.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{
					Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: hosts}},
			}}}}
		}
		return pv
	}
	provisioned := func(name, of string) *corev1.PersistentVolume {
		pv := volume(name, local, of)
		pv.Labels = map[string]string{kinds.LocalPathNode: of}
		pv.Annotations = map[string]string{"pv.kubernetes.io/provisioned-by": kinds.LocalPath}
		return pv
	}
	released := provisioned("released", "n1")
	released.Status.Phase = corev1.VolumeReleased
	v := view.Of(node("n1"), node("n2"), provisioned("b", "n1"), provisioned("elsewhere", "n2"), provisioned("lost", "n3"), released,
		volume("a", local, "n1"), volume("both", local, "n1", "n2"),
		volume("disk", corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/disk"}}, "n1", "n9"),
		volume("any", corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/any"}}),
		volume("net", corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{Server: "nas", Path: "/data"}}, "n1"))
	for of, want := range map[string][]control.VolumeReport{
		"n1": {{Name: "a", Claim: "shop/of-a", Path: "/data"}, {Name: "b", Claim: "shop/of-b", Path: "/data"},
			{Name: "disk", Claim: "shop/of-disk", Path: "/disk"}},
		"n2":     {{Name: "elsewhere", Claim: "shop/of-elsewhere", Path: "/data"}},
		"n3":     {{Name: "lost", Claim: "shop/of-lost", Path: "/data"}}, // its Node object is gone, its volume waits for the name
		"absent": {},
	} {
		if got := volumesOnlyOn(v, of); !slices.Equal(got, want) {
			t.Errorf("only on %s: %v, want %v", of, got, want)
		}
	}
}
