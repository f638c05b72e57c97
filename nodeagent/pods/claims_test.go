package pods

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestClaimed has every reason for which a claim cannot be mounted, in the kubelet's words, and those for which it can.
func TestClaimed(t *testing.T) {
	const unprocessed = "Unable to attach or mount volumes: unmounted volumes=[data], unattached volumes=[], " +
		"failed to process volumes=[data]: error processing PVC shop/%s: "
	block := corev1.PersistentVolumeBlock
	for _, test := range []struct {
		name   string
		change func(pod *corev1.Pod, claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume)
		want   string
	}{
		{"bound", nil, ""},
		{"deleted and in use", func(_ *corev1.Pod, claim *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume) {
			claim.DeletionTimestamp, claim.Finalizers = &metav1.Time{}, []string{"kubernetes.io/pvc-protection"}
		}, ""},
		{"deleted", func(_ *corev1.Pod, claim *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume) {
			claim.DeletionTimestamp = &metav1.Time{}
		}, fmt.Sprintf(unprocessed, "data") + "PVC is being deleted"},
		{"pending", func(_ *corev1.Pod, claim *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume) {
			claim.Status.Phase = corev1.ClaimPending
		}, fmt.Sprintf(unprocessed, "data") + "PVC is not bound"},
		{"of no volume", func(_ *corev1.Pod, claim *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume) {
			claim.Spec.VolumeName = ""
		}, fmt.Sprintf(unprocessed, "data") + "PVC has empty pvc.Spec.VolumeName"},
		{"unbound volume", func(_ *corev1.Pod, _ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) {
			pv.Spec.ClaimRef = nil
		}, fmt.Sprintf(unprocessed, "data") +
			"found PV object pv but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"},
		{"another's volume", func(_ *corev1.Pod, _ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) {
			pv.Spec.ClaimRef.UID = "other"
		}, fmt.Sprintf(unprocessed, "data") + "found PV object pv but its pv.Spec.ClaimRef.UID other does not point to claim.UID c"},
		{"another node's", func(_ *corev1.Pod, _ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) {
			pv.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values = []string{"n2"}
		}, `MountVolume.NodeAffinity check failed for volume "pv" : no matching NodeSelectorTerms`},
		{"device that is mounted", func(pod *corev1.Pod, _ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) {
			pv.Spec.VolumeMode = &block
		}, "volume data has volumeMode Block, but is specified in volumeMounts"},
		{"directory that is a device", func(pod *corev1.Pod, _ *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume) {
			c := &pod.Spec.Containers[0]
			c.VolumeMounts, c.VolumeDevices = nil, []corev1.VolumeDevice{{Name: "data", DevicePath: "/dev/x"}}
		}, "volume data has volumeMode Filesystem, but is specified in volumeDevices"},
		{"ephemeral, another's", func(pod *corev1.Pod, claim *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume) {
			pod.Spec.Volumes[0].VolumeSource = corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}
			claim.Name = "web-data"
		}, fmt.Sprintf(unprocessed, "web-data") + "PVC shop/web-data was not created for pod shop/web (pod is not owner)"},
		{"ephemeral", func(pod *corev1.Pod, claim *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume) {
			pod.Spec.Volumes[0].VolumeSource = corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}
			claim.OwnerReferences = []metav1.OwnerReference{{Kind: "Pod", Name: "web", UID: "p", Controller: new(true)}}
		}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "p"}, Spec: corev1.PodSpec{
				Containers: []corev1.Container{{Name: "web", VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}}},
				Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
					PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data", ReadOnly: true}}}},
			}}
			claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "data", UID: "c"},
				Spec:   corev1.PersistentVolumeClaimSpec{VolumeName: "pv"},
				Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}}
			pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{
				ClaimRef:               &corev1.ObjectReference{Namespace: "shop", Name: "data", UID: "c"},
				PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/data"}},
				NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
					MatchExpressions: []corev1.NodeSelectorRequirement{{
						Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{"n1"}}},
				}}}},
			}}
			if test.change != nil {
				test.change(pod, claim, pv)
			}
			v := &pod.Spec.Volumes[0]
			name, err := Bound(pod, v, claim)
			var got Persistent
			if err == nil {
				if name != "pv" {
					t.Errorf("bound to %q", name)
				}
				got, err = Claimed(pod, v, claim, pv, map[string]string{corev1.LabelHostname: "n1"})
			}
			switch {
			case err != nil && err.Error() != test.want, err == nil && test.want != "":
				t.Errorf("got %v\nwant %s", err, test.want)
			case err == nil && (got.Source.Local == nil || got.ReadOnly != (v.Ephemeral == nil)):
				t.Errorf("got %+v", got)
			}
		})
	}
}
