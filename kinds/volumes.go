package kinds

import (
	"fmt"
	"iter"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/component-helpers/storage/volume"
)

// The finalizers by which claims stay while pods mount them, and volumes while they are bound, as in Kubernetes.
const (
	ClaimProtection  = "kubernetes.io/pvc-protection"
	VolumeProtection = "kubernetes.io/pv-protection"
)

// bindingTakes is how long a claim that nothing keeps from a volume may be without one: binding takes four writes, of which each is
// decided from the one before.
const bindingTakes = 10 * time.Second

// BindsLate says that claims of a class get their volumes once a pod mounts them; nil, a class that is not there, says no.
func BindsLate(class *storagev1.StorageClass) bool {
	return class != nil && class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
}

// Block says that programs have a volume of that mode as a block device; none is the default, a file system.
func Block(mode *corev1.PersistentVolumeMode) bool {
	return mode != nil && *mode == corev1.PersistentVolumeBlock
}

// DataOnlyOn says whether a volume's data are on the machine of one node, of all nodes that there are.
func DataOnlyOn(pv *corev1.PersistentVolume, node string, nodes iter.Seq[*corev1.Node]) bool {
	if of := LocalPathOf(pv); of != "" {
		return of == node
	}
	if PathOnNode(pv) == "" || pv.Spec.NodeAffinity == nil {
		return false
	}
	there := false
	for n := range nodes {
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

// PathOnNode is where a volume is on its node; empty: it is elsewhere.
func PathOnNode(pv *corev1.PersistentVolume) string {
	switch s := pv.Spec.PersistentVolumeSource; {
	case s.Local != nil:
		return s.Local.Path
	case s.HostPath != nil:
		return s.HostPath.Path
	}
	return ""
}

func claimRule() Rule {
	return judged(claimHealth, Read{Of: core().WithKind("PersistentVolume")}, Read{Of: storage().WithKind("StorageClass")})
}

// claimHealth: it is bound and as large as it asks for, or waits for its first pod.
func claimHealth(c *corev1.PersistentVolumeClaim, see Sight) Health {
	switch c.Status.Phase {
	case corev1.ClaimBound:
		if h := grows(c); h.State != Healthy {
			return h
		}
		return Health{State: Healthy, Cause: tooLarge(c, see)}
	case corev1.ClaimLost:
		return lostClaim(c, see)
	}
	name := volume.GetPersistentVolumeClaimClass(c)
	class, _ := see.Get(For[*storagev1.StorageClass]().Key("", name)).(*storagev1.StorageClass)
	if BindsLate(class) && c.Spec.VolumeName == "" && !volume.IsDelayBindingProvisioning(c) && !refusedBefore(c, class) {
		return Health{State: Healthy}
	}
	cause := withoutVolume(c, class, see)
	if again := c.CreationTimestamp.Add(bindingTakes); see.Now().Before(again) {
		return Health{Cause: "Pending", Again: again}
	}
	if cause == "" {
		return Health{Cause: "Pending"}
	}
	return Health{State: Failed, Cause: "Pending: " + cause}
}

// grows judges a bound claim that asks for more than it has. What its node does is left out: that waits for a pod.
func grows(c *corev1.PersistentVolumeClaim) Health {
	has, known := c.Status.Capacity[corev1.ResourceStorage]
	wants := c.Spec.Resources.Requests[corev1.ResourceStorage]
	if !known || wants.Cmp(has) <= 0 {
		return Health{State: Healthy}
	}
	for _, one := range c.Status.Conditions {
		switch one.Type {
		case corev1.PersistentVolumeClaimControllerResizeError, corev1.PersistentVolumeClaimNodeResizeError:
			return Health{State: Failed, Cause: string(one.Type) + ": " + one.Message}
		case corev1.PersistentVolumeClaimFileSystemResizePending:
			return Health{State: Healthy}
		}
	}
	return Health{Cause: fmt.Sprintf("grows from %s to %s", &has, &wants)}
}

// tooLarge says that a claim has more than there is; empty: it has not, or nobody knows.
func tooLarge(c *corev1.PersistentVolumeClaim, see Sight) string {
	pv, there := see.Get(For[*corev1.PersistentVolume]().Key("", c.Spec.VolumeName)).(*corev1.PersistentVolume)
	if !there || pv.Annotations[LocalPathLarge] == "" {
		return ""
	}
	return fmt.Sprintf("%s is larger than %s in all", pv.Spec.Capacity.Storage(), pv.Annotations[LocalPathLarge])
}

// refusedBefore says that the claim's pod has had a node, which LocalPath took away: it can make no such volume anywhere.
func refusedBefore(c *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) bool {
	return c.Annotations[volume.AnnStorageProvisioner] == LocalPath && class.Provisioner == LocalPath && LocalPathRefusal(c, class) != ""
}

func lostClaim(c *corev1.PersistentVolumeClaim, see Sight) Health {
	cause := fmt.Sprintf("its volume %q is gone", c.Spec.VolumeName)
	pv, there := see.Get(For[*corev1.PersistentVolume]().Key("", c.Spec.VolumeName)).(*corev1.PersistentVolume)
	if there && pv.Spec.ClaimRef != nil && pv.Spec.ClaimRef.UID != c.UID {
		cause = fmt.Sprintf("its volume %q is that of claim %s/%s", pv.Name, pv.Spec.ClaimRef.Namespace, pv.Spec.ClaimRef.Name)
	}
	return Health{State: Failed, Cause: "Lost: " + cause}
}

// withoutVolume says why a claim has no volume, where that does not mend itself.
func withoutVolume(c *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, see Sight) string {
	name := volume.GetPersistentVolumeClaimClass(c)
	if wanted := c.Spec.VolumeName; wanted != "" {
		pv, there := see.Get(For[*corev1.PersistentVolume]().Key("", wanted)).(*corev1.PersistentVolume)
		switch {
		case !there:
			return fmt.Sprintf("there is no volume %q", wanted)
		case pv.Spec.ClaimRef != nil && !volume.IsVolumeBoundToClaim(pv, c):
			return fmt.Sprintf("volume %q already bound to a different claim", wanted)
		}
		return fmt.Sprintf("volume %q does not fit it", wanted)
	}
	switch {
	case name == "":
		return "no persistent volumes available for this claim and no storage class is set"
	case class == nil:
		return fmt.Sprintf("storageclass.storage.k8s.io %q not found", name)
	case strings.HasPrefix(class.Provisioner, "kubernetes.io/"):
		return fmt.Sprintf("no persistent volume of class %q fits, and nobody makes any", name)
	case class.Provisioner == LocalPath:
		return LocalPathRefusal(c, class)
	}
	return ""
}
