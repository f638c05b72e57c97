package pods

import (
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"

	"lockstep/kinds"
)

// Persistent is a persistent volume that a pod mounts by a claim.
type Persistent struct {
	// Name is the PersistentVolume's.
	Name string
	// Source is where its data is.
	Source corev1.PersistentVolumeSource
	// Modes are its access modes, and Options are of its mount.
	Modes   []corev1.PersistentVolumeAccessMode
	Options []string
	// ReadOnly says that the pod asks for it so.
	ReadOnly bool
	// Block says that its containers get it as a device.
	Block bool
	// Own is the volume itself where it is a directory that the node keeps; nil: it is something else.
	Own *corev1.PersistentVolume
}

// MountError is why a volume cannot be mounted. Its text and its reason, FailedMount unless stated, are those of the kubelet's event.
type MountError struct {
	Text   string
	Cause  error
	Reason string
}

func (e *MountError) Error() string { return e.Text }
func (e *MountError) Unwrap() error { return e.Cause }

// Unclaimed says that nothing is known of what a pod's volume claims.
func Unclaimed(pod *corev1.Pod, v *corev1.Volume, cause error) error {
	return &MountError{Text: fmt.Sprintf("Unable to attach or mount volumes: unmounted volumes=[%s], unattached volumes=[], "+
		"failed to process volumes=[%s]: error processing PVC %s/%s: %v",
		v.Name, v.Name, pod.Namespace, kinds.ClaimOf(pod, v), cause), Cause: cause}
}

// Bound returns the name of the volume that a pod's claim is bound to; the error says, in the kubelet's words, why there is
// none that the pod may mount.
func Bound(pod *corev1.Pod, v *corev1.Volume, claim *corev1.PersistentVolumeClaim) (string, error) {
	if v.Ephemeral != nil {
		if err := ephemeral.VolumeIsForPod(pod, claim); err != nil {
			return "", Unclaimed(pod, v, err)
		}
	}
	switch {
	case claim.DeletionTimestamp != nil && !slices.Contains(claim.Finalizers, kinds.ClaimProtection): // else its pods may go on
		return "", Unclaimed(pod, v, errors.New("PVC is being deleted"))
	case claim.Status.Phase != corev1.ClaimBound:
		return "", Unclaimed(pod, v, errors.New("PVC is not bound"))
	case claim.Spec.VolumeName == "":
		return "", Unclaimed(pod, v, errors.New("PVC has empty pvc.Spec.VolumeName"))
	}
	return claim.Spec.VolumeName, nil
}

// Claimed is what a pod mounts of the volume that its claim is bound to, on a node with these labels; the error is the
// kubelet's.
func Claimed(pod *corev1.Pod, v *corev1.Volume, claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume,
	labels map[string]string) (Persistent, error) {
	out := Persistent{Name: pv.Name, Source: pv.Spec.PersistentVolumeSource, Options: pv.Spec.MountOptions,
		Modes: pv.Spec.AccessModes,
		Block: kinds.Block(pv.Spec.VolumeMode)}
	if v.PersistentVolumeClaim != nil {
		out.ReadOnly = v.PersistentVolumeClaim.ReadOnly
	}
	if kinds.LocalPathOf(pv) != "" {
		out.Own = pv
	}
	switch ref := pv.Spec.ClaimRef; {
	case ref == nil:
		return out, Unclaimed(pod, v, fmt.Errorf(
			"found PV object %s but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim", pv.Name))
	case ref.UID != claim.UID:
		return out, Unclaimed(pod, v, fmt.Errorf("found PV object %s but its pv.Spec.ClaimRef.UID %s does not point to claim.UID %s",
			pv.Name, ref.UID, claim.UID))
	}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		mounts := slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == v.Name })
		devices := slices.ContainsFunc(c.VolumeDevices, func(d corev1.VolumeDevice) bool { return d.Name == v.Name })
		switch {
		case mounts && out.Block:
			return out, fmt.Errorf("volume %s has volumeMode Block, but is specified in volumeMounts", v.Name)
		case devices && !out.Block:
			return out, fmt.Errorf("volume %s has volumeMode Filesystem, but is specified in volumeDevices", v.Name)
		}
	}
	if err := volume.CheckNodeAffinity(pv, labels); err != nil {
		return out, &MountError{Text: fmt.Sprintf("MountVolume.NodeAffinity check failed for volume %q : %v", pv.Name, err), Cause: err}
	}
	return out, nil
}
