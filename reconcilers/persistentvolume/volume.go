package persistentvolume

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// Volumes returns the reconciler that says which volumes are free, bound, released or failed, and takes one back that was given to a
// claim which has another.
func Volumes() loop.Reconciler {
	pv := kinds.For[*corev1.PersistentVolume]()
	return loop.Reconciler{
		Name:      "persistentvolume",
		Component: component,
		Owner:     pv,
		Reads: []loop.Read{{
			Kind: kinds.For[*corev1.PersistentVolumeClaim](), How: "the volumes that name it, and the one that it names", Keys: named,
			Changed: func(old, new kinds.Object) bool {
				return old == nil || new == nil || old.(*corev1.PersistentVolumeClaim).Spec.VolumeName !=
					new.(*corev1.PersistentVolumeClaim).Spec.VolumeName
			},
		}},
		Writes: []loop.Write{{
			Kind: pv, Fields: []string{"spec.claimRef", "metadata.annotations", "status"},
			Shared: map[string]string{"spec.claimRef": ownReference, "metadata.annotations": ownReference, "status": loop.OwnPhase},
		}},
		Decide: func(v *view.View, key kinds.Key, now time.Time) (loop.Decision, error) {
			pv, ok := v.Get(key).(*corev1.PersistentVolume)
			if !ok {
				return loop.Decision{}, nil
			}
			return decide(v, pv, now), nil
		},
	}
}

// named are the volumes that a claim has to do with.
func named(v *view.View, o kinds.Object) (keys []kinds.Key) {
	c := o.(*corev1.PersistentVolumeClaim)
	for pv := range view.List[*corev1.PersistentVolume](v, "") {
		if ref := pv.Spec.ClaimRef; pv.Name == c.Spec.VolumeName || ref != nil && ref.Namespace == c.Namespace && ref.Name == c.Name {
			keys = append(keys, kinds.KeyOf(pv))
		}
	}
	return keys
}

func decide(v *view.View, pv *corev1.PersistentVolume, now time.Time) loop.Decision {
	ref := pv.Spec.ClaimRef
	if ref == nil || ref.UID == "" {
		return phase(pv, corev1.VolumeAvailable, "", now)
	}
	claim, ok := view.Get[*corev1.PersistentVolumeClaim](v, ref.Namespace, ref.Name)
	switch {
	case !ok || claim.UID != ref.UID:
		return released(pv, now)
	case claim.Spec.VolumeName == "":
		if volume.CheckVolumeModeMismatches(&claim.Spec, &pv.Spec) {
			return loop.Decision{Events: []loop.Event{
				{Type: corev1.EventTypeWarning, Reason: "VolumeMismatch", Message: fmt.Sprintf(
					"Cannot bind PersistentVolume to requested PersistentVolumeClaim %q due to incompatible volumeMode.", claim.Name)},
				{About: claim, Type: corev1.EventTypeWarning, Reason: "VolumeMismatch", Message: fmt.Sprintf(
					"Cannot bind PersistentVolume %q to requested PersistentVolumeClaim due to incompatible volumeMode.", pv.Name)},
			}}
		}
		return loop.Decision{} // the claim's turn
	case claim.Spec.VolumeName == pv.Name:
		return phase(pv, corev1.VolumeBound, "", now)
	case metav1.HasAnnotation(pv.ObjectMeta, volume.AnnDynamicallyProvisioned) &&
		pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
		return released(pv, now)
	}
	return free(pv)
}

// free takes a volume back from a claim that has another: what a person stated of the claim stays.
func free(pv *corev1.PersistentVolume) loop.Decision {
	changed := pv.DeepCopy()
	if metav1.HasAnnotation(pv.ObjectMeta, volume.AnnBoundByController) {
		changed.Spec.ClaimRef = nil
		delete(changed.Annotations, volume.AnnBoundByController)
	} else {
		changed.Spec.ClaimRef.UID = ""
	}
	return loop.Decision{Wants: []loop.Want{{Object: changed, Reason: "its claim has another volume"}}}
}

// released says that a volume's claim is gone. Its data stay: of one to be deleted they are deleted by whoever provisioned it, and
// where nobody did it has failed.
func released(pv *corev1.PersistentVolume, now time.Time) loop.Decision {
	if pv.Status.Phase == corev1.VolumeFailed {
		return loop.Decision{}
	}
	if pv.Status.Phase == corev1.VolumeReleased &&
		pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete &&
		!metav1.HasAnnotation(pv.ObjectMeta, volume.AnnDynamicallyProvisioned) {
		cause := fmt.Sprintf("error getting deleter volume plugin for volume %q: no deletable volume plugin matched", pv.Name)
		d := phase(pv, corev1.VolumeFailed, cause, now)
		d.Events = warning("VolumeFailedDelete", cause)
		return d
	}
	return phase(pv, corev1.VolumeReleased, "", now)
}

func phase(pv *corev1.PersistentVolume, phase corev1.PersistentVolumePhase, message string, now time.Time) (d loop.Decision) {
	if pv.Status.Phase == phase {
		return d
	}
	changed := pv.DeepCopy()
	at := metav1.NewTime(now.Truncate(time.Second))
	changed.Status = corev1.PersistentVolumeStatus{Phase: phase, Message: message, LastPhaseTransitionTime: &at}
	d.Status = changed
	return d
}
