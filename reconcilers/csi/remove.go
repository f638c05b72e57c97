package csi

import (
	"fmt"
	"slices"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/store/view"
)

// Remove decides about a volume: its driver deletes one that it made, once the claim is gone and nothing is attached of it, where the
// policy is Delete. Stated says that a source states it, which then stays.
func Remove(v *view.View, name string, stated bool, ask Asks, now time.Time) Step {
	pv, ok := view.Get[*corev1.PersistentVolume](v, "", name)
	source := kinds.CSIOf(pv)
	if !ok || source == nil {
		return Step{}
	}
	holder := ""
	for a := range view.List[*storagev1.VolumeAttachment](v, "") {
		if kinds.AttachedVolume(a) == name {
			holder = a.Spec.NodeName
		}
	}
	if pv.DeletionTimestamp != nil && holder == "" && slices.Contains(pv.Finalizers, attachFinalizer(source.Driver)) {
		return letGo(pv, attachFinalizer(source.Driver), "nothing is attached of it")
	}
	if !kinds.CSIDeletes(pv) {
		return Step{}
	}
	deletes := pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete
	released := pv.Status.Phase == corev1.VolumeReleased && !claimThere(v, pv)
	switch {
	case pv.DeletionTimestamp != nil && claimThere(v, pv):
		return Step{} // it is bound
	case pv.DeletionTimestamp != nil && !deletes:
		return letGo(pv, made, "its policy is to keep what is in it")
	case pv.DeletionTimestamp == nil && (!deletes || !released || stated):
		return Step{}
	case holder != "":
		return undeleted(pv, fmt.Errorf("persistentvolume %s is still attached to node %s", pv.Name, holder))
	case !served(v, source.Driver):
		return Step{}
	}
	driver := ask(source.Driver)
	if driver == nil {
		return Step{Ask: source.Driver}
	}
	var ref *corev1.SecretReference
	if name := pv.Annotations[deletionSecret]; name != "" {
		ref = &corev1.SecretReference{Name: name, Namespace: pv.Annotations[deletionSecretSpace]}
	}
	secrets, err := secret(v, ref)
	if err != nil {
		secrets = nil // it may have gone with all else: the driver decides
	}
	return Step{Call: &Call{
		Driver: source.Driver, Near: around(v, pv),
		Request: &csipb.DeleteVolumeRequest{VolumeId: source.VolumeHandle, Secrets: secrets},
		Then: func(_ any, err error, now time.Time) Step {
			if err != nil {
				return undeleted(pv, err)
			}
			return Step{Changes: []Change{{Reason: "its driver has deleted it", Object: deleted(pv, now), Gone: true}}}
		},
	}}
}

// claimThere says whether the claim that a volume was given to is there.
func claimThere(v *view.View, pv *corev1.PersistentVolume) bool {
	ref := pv.Spec.ClaimRef
	if ref == nil || ref.UID == "" {
		return false
	}
	c, ok := view.Get[*corev1.PersistentVolumeClaim](v, ref.Namespace, ref.Name)
	return ok && c.UID == ref.UID
}

// deleted is a volume that is being deleted, without what keeps it for its driver.
func deleted(pv *corev1.PersistentVolume, now time.Time) *corev1.PersistentVolume {
	return changed(pv, func(pv *corev1.PersistentVolume) {
		pv.Finalizers = without(pv.Finalizers, made)
		if pv.DeletionTimestamp == nil {
			at, none := metav1.NewTime(now), int64(0)
			pv.DeletionTimestamp, pv.DeletionGracePeriodSeconds = &at, &none
		}
	})
}

func letGo(pv *corev1.PersistentVolume, finalizer, reason string) Step {
	return Step{Changes: []Change{{Reason: reason, Object: changed(pv, func(pv *corev1.PersistentVolume) {
		pv.Finalizers = without(pv.Finalizers, finalizer)
	})}}}
}

func undeleted(pv *corev1.PersistentVolume, err error) Step {
	return Step{
		Failed: fmt.Errorf("cannot delete volume %s: %w", pv.Name, err),
		Events: []Event{warning(pv.Spec.CSI.Driver, pv, "VolumeFailedDelete", "%v", err)},
	}
}
