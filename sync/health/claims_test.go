package health

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/store/view"
)

// TestClaims: a claim is healthy once it is bound, or while it waits for its first pod, and says why it cannot be bound.
func TestClaims(t *testing.T) {
	const ours, none = "lockstep.dev/local-path", "kubernetes.io/no-provisioner"
	claim := func(class string, change ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
		c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "data", UID: "mine", CreationTimestamp: metav1.NewTime(now.Add(-time.Minute)),
		}}
		c.Spec.StorageClassName, c.Status.Phase = &class, corev1.ClaimPending
		for _, f := range change {
			f(c)
		}
		return c
	}
	phase := func(p corev1.PersistentVolumeClaimPhase) func(*corev1.PersistentVolumeClaim) {
		return func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName, c.Status.Phase = "disk", p }
	}
	has := func(size string) func(*corev1.PersistentVolumeClaim) {
		return func(c *corev1.PersistentVolumeClaim) {
			c.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
		}
	}
	larger := func(conditions ...corev1.PersistentVolumeClaimConditionType) func(*corev1.PersistentVolumeClaim) {
		return func(c *corev1.PersistentVolumeClaim) {
			has("10Mi")(c)
			c.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("20Mi")}
			for _, t := range conditions {
				c.Status.Conditions = append(c.Status.Conditions, corev1.PersistentVolumeClaimCondition{Type: t, Message: "no room"})
			}
		}
	}
	asks := func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = "disk" }
	chosen := func(c *corev1.PersistentVolumeClaim) {
		c.Annotations = map[string]string{"volume.kubernetes.io/selected-node": "a"}
	}
	told := func(c *corev1.PersistentVolumeClaim) {
		c.Annotations = map[string]string{"volume.kubernetes.io/storage-provisioner": ours}
	}
	many := func(c *corev1.PersistentVolumeClaim) {
		c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
	}
	young := func(c *corev1.PersistentVolumeClaim) { c.CreationTimestamp = metav1.NewTime(now.Add(-time.Second)) }
	class := func(provisioner string, mode storagev1.VolumeBindingMode) *storagev1.StorageClass {
		return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "gold"}, Provisioner: provisioner, VolumeBindingMode: &mode}
	}
	pv := func(claim string) *corev1.PersistentVolume {
		v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "disk"}}
		if claim != "" {
			v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "shop", Name: claim, UID: "theirs"}
		}
		return v
	}
	large := pv("data")
	large.Annotations = map[string]string{kinds.LocalPathLarge: "the 252Gi that node n1 has"}
	large.Spec.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("500Ti")}
	for name, c := range map[string]struct {
		claim  *corev1.PersistentVolumeClaim
		others []kinds.Object
		state  kinds.State
		cause  string
	}{
		"bound": {claim("", phase(corev1.ClaimBound)), nil, kinds.Healthy, ""},
		"larger than its disk": {claim("", phase(corev1.ClaimBound), asks), []kinds.Object{large}, kinds.Healthy,
			"500Ti is larger than the 252Gi that node n1 has in all"},
		"grows":     {claim("", phase(corev1.ClaimBound), larger()), nil, kinds.Progressing, "grows from 10Mi to 20Mi"},
		"grew":      {claim("", phase(corev1.ClaimBound), larger(), has("20Mi")), nil, kinds.Healthy, ""},
		"for a pod": {claim("", phase(corev1.ClaimBound), larger("FileSystemResizePending")), nil, kinds.Healthy, ""},
		"cannot grow": {claim("", phase(corev1.ClaimBound), larger("Resizing", "ControllerResizeError")), nil, kinds.Failed,
			"ControllerResizeError: no room"},
		"lost": {claim("", phase(corev1.ClaimLost)), nil, kinds.Failed, `Lost: its volume "disk" is gone`},
		"misbound": {claim("", phase(corev1.ClaimLost)), []kinds.Object{pv("other")}, kinds.Failed,
			`Lost: its volume "disk" is that of claim shop/other`},
		"first pod":   {claim("gold"), []kinds.Object{class(ours, "WaitForFirstConsumer")}, kinds.Healthy, ""},
		"node chosen": {claim("gold", chosen), []kinds.Object{class(ours, "WaitForFirstConsumer")}, kinds.Progressing, "Pending"},
		"not of many": {claim("gold", chosen, many), []kinds.Object{class(ours, "WaitForFirstConsumer")}, kinds.Failed,
			"Pending: access mode ReadWriteMany is not supported: a directory of one node has ReadWriteOnce and ReadWriteOncePod"},
		"not of many, node taken away": {claim("gold", told, many), []kinds.Object{class(ours, "WaitForFirstConsumer")}, kinds.Failed,
			"Pending: access mode ReadWriteMany is not supported: a directory of one node has ReadWriteOnce and ReadWriteOncePod"},
		"its node taken away": {claim("gold", told), []kinds.Object{class(ours, "WaitForFirstConsumer")}, kinds.Healthy, ""},
		"young":               {claim("", young), nil, kinds.Progressing, "Pending"},
		"no class":            {claim("gold"), nil, kinds.Failed, `Pending: storageclass.storage.k8s.io "gold" not found`},
		"nothing": {claim(""), nil, kinds.Failed,
			"Pending: no persistent volumes available for this claim and no storage class is set"},
		"nobody makes": {claim("gold"), []kinds.Object{class(none, "Immediate")}, kinds.Failed,
			`Pending: no persistent volume of class "gold" fits, and nobody makes any`},
		"absent": {claim("", asks), nil, kinds.Failed, `Pending: there is no volume "disk"`},
		"taken": {claim("", asks), []kinds.Object{pv("other")}, kinds.Failed,
			`Pending: volume "disk" already bound to a different claim`},
		"unfit": {claim("", asks), []kinds.Object{pv("")}, kinds.Failed, `Pending: volume "disk" does not fit it`},
	} {
		v := view.Of(append(c.others, c.claim)...)
		if h := At(seen(v, kinds.KeyOf(c.claim)), now).Of(kinds.KeyOf(c.claim)); h.State != c.state || h.Cause != c.cause {
			t.Errorf("%s: %+v, want %v %q", name, h, c.state, c.cause)
		}
	}
}
