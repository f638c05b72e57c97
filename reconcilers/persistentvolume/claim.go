package persistentvolume

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"

	"lockstep/kinds"
	"lockstep/kinds/admission"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// unbound decides about a claim whose binding is not complete.
func unbound(v *view.View, c *corev1.PersistentVolumeClaim) (loop.Decision, error) {
	if name := c.Spec.VolumeName; name != "" {
		return asked(v, c, name)
	}
	class, _ := view.Get[*storagev1.StorageClass](v, "", volume.GetPersistentVolumeClaimClass(c))
	delayed := kinds.BindsLate(class)
	pv, err := match(v, c, delayed)
	if err != nil {
		return loop.Decision{}, loop.Stall(err)
	}
	if pv != nil {
		return bind(c, pv)
	}
	if !volume.PersistentVolumeClaimHasClass(c) {
		if class := admission.DefaultStorageClass(v); class != nil {
			changed := c.DeepCopy()
			changed.Spec.StorageClassName = &class.Name
			return loop.Decision{Wants: []loop.Want{{Object: changed, Reason: class.Name + " is the default class"}}}, nil
		}
	}
	d := pending(c)
	switch {
	case delayed && !volume.IsDelayBindingProvisioning(c):
		reason, message := "WaitForFirstConsumer", "waiting for first consumer to be created before binding"
		if pods := unplaced(v, c); len(pods) > 0 {
			what := "pod"
			if len(pods) > 1 {
				what = "pods"
			}
			reason, message = "WaitForPodScheduled", fmt.Sprintf("waiting for %s %s to be scheduled", what, strings.Join(pods, ","))
		}
		d.Events = normal(reason, message)
	case volume.GetPersistentVolumeClaimClass(c) != "":
		provision(&d, c, class)
	default:
		d.Events = normal("FailedBinding", "no persistent volumes available for this claim and no storage class is set")
	}
	return d, nil
}

// provision leaves a claim to its provisioner.
func provision(d *loop.Decision, c *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) {
	switch {
	case class == nil:
		d.Events = warning("ProvisioningFailed",
			fmt.Sprintf("storageclass.storage.k8s.io %q not found", volume.GetPersistentVolumeClaimClass(c)))
		return
	case strings.HasPrefix(class.Provisioner, "kubernetes.io/"):
		d.Events = warning("ProvisioningFailed", "no volume plugin matched name: "+class.Provisioner)
		return
	}
	if class.Provisioner != kinds.LocalPath { // which runs where this does, and says itself what it does
		d.Events = normal("ExternalProvisioning", fmt.Sprintf("Waiting for a volume to be created either by the external provisioner "+
			"'%s' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running "+
			"and correctly registered.", class.Provisioner))
	}
	if c.Annotations[volume.AnnStorageProvisioner] == class.Provisioner &&
		c.Annotations[volume.AnnBetaStorageProvisioner] == class.Provisioner {
		return
	}
	changed := c.DeepCopy()
	metav1.SetMetaDataAnnotation(&changed.ObjectMeta, volume.AnnStorageProvisioner, class.Provisioner)
	metav1.SetMetaDataAnnotation(&changed.ObjectMeta, volume.AnnBetaStorageProvisioner, class.Provisioner)
	d.Wants = []loop.Want{{Object: changed, Reason: class.Provisioner + " is to make its volume"}}
	d.Status = nil
}

// match is the volume for a claim: one that names it, else, where the scheduler does not choose, the smallest that fits, among those
// with the fewest access modes. Nil: there is none.
func match(v *view.View, c *corev1.PersistentVolumeClaim, delayed bool) (*corev1.PersistentVolume, error) {
	byModes := map[string][]*corev1.PersistentVolume{}
	var modes []string
	for pv := range view.List[*corev1.PersistentVolume](v, "") {
		if !volume.CheckAccessModes(c, pv) {
			continue
		}
		set := accessModes(pv)
		if byModes[set] == nil {
			modes = append(modes, set)
		}
		byModes[set] = append(byModes[set], pv)
	}
	slices.SortFunc(modes, func(a, b string) int { return strings.Count(a, ",") - strings.Count(b, ",") })
	for _, set := range modes {
		if pv, err := volume.FindMatchingVolume(c, byModes[set], nil, nil, delayed, true); err != nil || pv != nil {
			return pv, err
		}
	}
	return nil, nil
}

func accessModes(pv *corev1.PersistentVolume) string {
	var names []string
	for _, mode := range pv.Spec.AccessModes {
		names = append(names, string(mode))
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ",")
}

// asked decides about a claim that asks for one volume.
func asked(v *view.View, c *corev1.PersistentVolumeClaim, name string) (loop.Decision, error) {
	pv, there := view.Get[*corev1.PersistentVolume](v, "", name)
	switch {
	case !there:
		return pending(c), nil
	case pv.Spec.ClaimRef == nil:
		if mismatch := unfit(pv, c); mismatch != "" {
			d := pending(c)
			d.Events = warning("VolumeMismatch", fmt.Sprintf("Cannot bind to requested volume %q: %s", name, mismatch))
			return d, nil
		}
	case !volume.IsVolumeBoundToClaim(pv, c):
		d := pending(c)
		d.Events = warning("FailedBinding", fmt.Sprintf("volume %q already bound to a different claim.", name))
		return d, nil
	}
	return bind(c, pv)
}

// unfit says why a volume cannot be a claim's; empty: it can.
func unfit(pv *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) string {
	size, wanted := pv.Spec.Capacity[corev1.ResourceStorage], c.Spec.Resources.Requests[corev1.ResourceStorage]
	switch {
	case pv.DeletionTimestamp != nil:
		return fmt.Sprintf("the volume is marked for deletion %q", pv.Name)
	case size.Cmp(wanted) < 0:
		return "requested PV is too small"
	case volume.GetPersistentVolumeClass(pv) != volume.GetPersistentVolumeClaimClass(c):
		return "storageClassName does not match"
	case volume.CheckVolumeModeMismatches(&c.Spec, &pv.Spec):
		return "incompatible volumeMode"
	case !volume.CheckAccessModes(c, pv):
		return "incompatible accessMode"
	}
	return ""
}

// bind takes the next step by which a claim and a volume become each other's.
func bind(c *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) (loop.Decision, error) {
	given, dirty, err := volume.GetBindVolumeToClaim(pv, c)
	if err != nil {
		return loop.Decision{}, fmt.Errorf("cannot bind %v: %w", kinds.KeyOf(c), err)
	}
	if dirty {
		return loop.Decision{Wants: []loop.Want{{Object: given, Reason: "bound to " + c.Namespace + "/" + c.Name}}}, nil
	}
	_, completed := c.Annotations[volume.AnnBindCompleted]
	if c.Spec.VolumeName == pv.Name && completed {
		return loop.Decision{Status: holding(c, pv)}, nil
	}
	changed := c.DeepCopy()
	if changed.Spec.VolumeName != pv.Name {
		changed.Spec.VolumeName = pv.Name
		metav1.SetMetaDataAnnotation(&changed.ObjectMeta, volume.AnnBoundByController, "yes")
	}
	metav1.SetMetaDataAnnotation(&changed.ObjectMeta, volume.AnnBindCompleted, "yes")
	return loop.Decision{Wants: []loop.Want{{Object: changed, Reason: "bound to " + pv.Name}}}, nil
}

// bound decides about a claim whose binding is complete.
func bound(v *view.View, c *corev1.PersistentVolumeClaim) (loop.Decision, error) {
	pv, there := view.Get[*corev1.PersistentVolume](v, "", c.Spec.VolumeName)
	switch {
	case c.Spec.VolumeName == "":
		return lost(c, "ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!"), nil
	case !there:
		return lost(c, "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!"), nil
	case pv.Spec.ClaimRef != nil && pv.Spec.ClaimRef.UID != c.UID:
		return lost(c, "ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly"), nil
	}
	d, err := bind(c, pv)
	if err != nil || len(d.Wants) > 0 || d.Status != nil {
		return d, err
	}
	return grow(c, pv), nil
}

func lost(c *corev1.PersistentVolumeClaim, reason, message string) (d loop.Decision) {
	if c.Status.Phase == corev1.ClaimLost {
		return d
	}
	d.Status = withStatus(c, func(s *corev1.PersistentVolumeClaimStatus) {
		s.Phase, s.AccessModes, s.Capacity = corev1.ClaimLost, nil, nil
	})
	d.Events = warning(reason, message)
	return d
}

func pending(c *corev1.PersistentVolumeClaim) loop.Decision {
	return loop.Decision{Status: withStatus(c, func(s *corev1.PersistentVolumeClaimStatus) {
		s.Phase, s.AccessModes, s.Capacity = corev1.ClaimPending, nil, nil
	})}
}

// holding is a claim with the status of one that has a volume. Of a claim that has one already the size stays as it is told: it
// follows its volume's where that grows.
func holding(c *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) kinds.Object {
	return withStatus(c, func(s *corev1.PersistentVolumeClaimStatus) {
		s.AccessModes = pv.Spec.AccessModes
		if s.Phase != corev1.ClaimBound {
			s.Phase, s.Capacity = corev1.ClaimBound, pv.Spec.Capacity.DeepCopy()
		}
	})
}

// withStatus is a claim with its status changed, or nil where that changes nothing.
func withStatus(c *corev1.PersistentVolumeClaim, change func(*corev1.PersistentVolumeClaimStatus)) kinds.Object {
	changed := c.DeepCopy()
	change(&changed.Status)
	if equality.Semantic.DeepEqual(c.Status, changed.Status) {
		return nil
	}
	return changed
}

// unplaced are the names of the pods that mount a claim and have no node yet.
func unplaced(v *view.View, c *corev1.PersistentVolumeClaim) (names []string) {
	for p := range v.PodsOnNode("") {
		if p.Namespace == c.Namespace && mounts(p, c.Name) {
			names = append(names, p.Name)
		}
	}
	slices.Sort(names)
	return names
}

func mounts(p *corev1.Pod, claim string) bool {
	return slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return kinds.ClaimOf(p, &v) == claim })
}

func normal(reason, message string) []loop.Event {
	return []loop.Event{{Type: corev1.EventTypeNormal, Reason: reason, Message: message}}
}

func warning(reason, message string) []loop.Event {
	return []loop.Event{{Type: corev1.EventTypeWarning, Reason: reason, Message: message}}
}
