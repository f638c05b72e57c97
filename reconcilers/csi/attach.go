package csi

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/store/view"
)

// attacher signs events about volumes that are attached, as Kubernetes' controller does.
const attacher = "attachdetach-controller"

// attachFinalizer keeps an attachment until its driver has detached the volume, and a volume until nothing is attached of it, as that
// of Kubernetes' external attacher.
func attachFinalizer(driver string) string { return "external-attacher/" + sanitized(driver) }

// Attach decides about a VolumeAttachment: its driver attaches the volume, and detaches it when the attachment is being deleted.
func Attach(v *view.View, name string, ask Asks, now time.Time) Step {
	a, ok := view.Get[*storagev1.VolumeAttachment](v, "", name)
	if !ok {
		return Step{}
	}
	finalizer := attachFinalizer(a.Spec.Attacher)
	if a.DeletionTimestamp != nil {
		if !slices.Contains(a.Finalizers, finalizer) {
			return Step{}
		}
		return detach(v, a, ask)
	}
	if a.Status.Attached || !served(v, a.Spec.Attacher) {
		return Step{}
	}
	driver := ask(a.Spec.Attacher)
	if driver == nil {
		return Step{Ask: a.Spec.Attacher}
	}
	if !driver.Can[csipb.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME] {
		return attached(v, a, nil) // there is nothing to do
	}
	pv, _ := view.Get[*corev1.PersistentVolume](v, "", kinds.AttachedVolume(a))
	source := kinds.CSIOf(pv)
	if source == nil {
		return unattached(v, a, fmt.Errorf("persistentvolume %q not found", kinds.AttachedVolume(a)), now)
	}
	node, err := nodeID(v, a)
	if err != nil {
		return unattached(v, a, err, now)
	}
	if marked := mark(a, pv, finalizer, node); marked != nil {
		return Step{Changes: marked}
	}
	secrets, err := secret(v, source.ControllerPublishSecretRef)
	if err != nil {
		return unattached(v, a, err, now)
	}
	return Step{Call: &Call{
		Driver: a.Spec.Attacher, Near: []string{a.Spec.NodeName},
		Request: &csipb.ControllerPublishVolumeRequest{
			VolumeId: source.VolumeHandle, NodeId: node, VolumeCapability: driver.capability(pv), Secrets: secrets,
			Readonly:      source.ReadOnly && driver.Can[csipb.ControllerServiceCapability_RPC_PUBLISH_READONLY],
			VolumeContext: source.VolumeAttributes,
		},
		Then: func(answer any, err error, now time.Time) Step {
			if err != nil {
				return unattached(v, a, err, now)
			}
			return attached(v, a, answer.(*csipb.ControllerPublishVolumeResponse).GetPublishContext())
		},
	}}
}

// mark has an attachment and its volume stay until the volume is detached, from the node that the driver knows by an id; nil: they do.
func mark(a *storagev1.VolumeAttachment, pv *corev1.PersistentVolume, finalizer, id string) (out []Change) {
	if !slices.Contains(a.Finalizers, finalizer) || a.Annotations[nodeIDNote] != id {
		out = append(out, Change{Reason: "the volume is detached first",
			Object: changed(a, func(a *storagev1.VolumeAttachment) {
				a.Finalizers = with(a.Finalizers, finalizer)
				metav1.SetMetaDataAnnotation(&a.ObjectMeta, nodeIDNote, id)
			})})
	}
	if !slices.Contains(pv.Finalizers, finalizer) && pv.DeletionTimestamp == nil {
		out = append(out, Change{Reason: "it is attached",
			Object: changed(pv, func(pv *corev1.PersistentVolume) { pv.Finalizers = with(pv.Finalizers, finalizer) })})
	}
	return out
}

// nodeID is what the driver calls a node.
func nodeID(v *view.View, a *storagev1.VolumeAttachment) (string, error) {
	n, ok := view.Get[*storagev1.CSINode](v, "", a.Spec.NodeName)
	if !ok {
		return "", fmt.Errorf("csinode.storage.k8s.io %q not found", a.Spec.NodeName)
	}
	for _, d := range n.Spec.Drivers {
		if d.Name == a.Spec.Attacher {
			return d.NodeID, nil
		}
	}
	return "", fmt.Errorf("CSINode %s does not contain driver %s", a.Spec.NodeName, a.Spec.Attacher)
}

func attached(v *view.View, a *storagev1.VolumeAttachment, metadata map[string]string) Step {
	s := Step{Changes: []Change{{Status: true, Reason: "its driver has attached the volume",
		Object: changed(a, func(a *storagev1.VolumeAttachment) {
			a.Status = storagev1.VolumeAttachmentStatus{Attached: true, AttachmentMetadata: maps.Clone(metadata)}
		})}}}
	for _, p := range waiting(v, a) {
		s.Events = append(s.Events, normal(attacher, p, "SuccessfulAttachVolume", "AttachVolume.Attach succeeded for volume %q ",
			kinds.AttachedVolume(a)))
	}
	return s
}

func unattached(v *view.View, a *storagev1.VolumeAttachment, err error, now time.Time) Step {
	s := Step{Failed: fmt.Errorf("cannot attach volume %s to node %s: %w", kinds.AttachedVolume(a), a.Spec.NodeName, err)}
	s.Changes = []Change{{Status: true, Reason: "its driver cannot attach the volume",
		Object: changed(a, func(a *storagev1.VolumeAttachment) { a.Status.AttachError = volumeError(err, now) })}}
	for _, p := range waiting(v, a) {
		s.Events = append(s.Events, warning(attacher, p, "FailedAttachVolume", "AttachVolume.Attach failed for volume %q : %v",
			kinds.AttachedVolume(a), err))
	}
	return s
}

// volumeError is a failure as it is told, with the code of one that says that the node is full.
func volumeError(err error, now time.Time) *storagev1.VolumeError {
	out := &storagev1.VolumeError{Time: metav1.NewTime(now), Message: err.Error()}
	if s, ok := status.FromError(err); ok && s.Code() == codes.ResourceExhausted {
		code := int32(s.Code())
		out.ErrorCode = &code
	}
	return out
}

// waiting are the pods of an attachment's node that mount its volume.
func waiting(v *view.View, a *storagev1.VolumeAttachment) (out []*corev1.Pod) {
	pv, _ := view.Get[*corev1.PersistentVolume](v, "", kinds.AttachedVolume(a))
	if pv == nil || pv.Spec.ClaimRef == nil {
		return nil
	}
	for p := range v.PodsOnNode(a.Spec.NodeName) {
		if p.Namespace == pv.Spec.ClaimRef.Namespace && !podstatus.Finished(&p.Status) && mounts(p, pv.Spec.ClaimRef.Name) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b *corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func mounts(p *corev1.Pod, claim string) bool {
	return slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return kinds.ClaimOf(p, &v) == claim })
}

// detach decides about an attachment that is being deleted. A node that has come to use the volume meanwhile keeps it, for as long as
// it is ready and nobody vouches that it is off: the attachment was given up before it could know.
func detach(v *view.View, a *storagev1.VolumeAttachment, ask Asks) Step {
	pv, _ := view.Get[*corev1.PersistentVolume](v, "", kinds.AttachedVolume(a))
	source := kinds.CSIOf(pv)
	node, there := view.Get[*corev1.Node](v, "", a.Spec.NodeName)
	if source != nil && there && kinds.NodeReady(node) && !kinds.OutOfService(node) && kinds.UsesVolume(node, kinds.CSIVolumeName(source)) {
		return Step{}
	}
	if !served(v, a.Spec.Attacher) {
		return Step{}
	}
	driver := ask(a.Spec.Attacher)
	if driver == nil {
		return Step{Ask: a.Spec.Attacher}
	}
	if source == nil || !driver.Can[csipb.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME] {
		return detached(a)
	}
	id := a.Annotations[nodeIDNote]
	if id == "" {
		return detached(a) // its driver was never asked to attach it
	}
	secrets, err := secret(v, source.ControllerPublishSecretRef)
	if err != nil {
		secrets = nil // it may have gone with all else: the driver decides
	}
	return Step{Call: &Call{
		Driver: a.Spec.Attacher, Near: []string{a.Spec.NodeName},
		Request: &csipb.ControllerUnpublishVolumeRequest{VolumeId: source.VolumeHandle, NodeId: id, Secrets: secrets},
		Then: func(_ any, err error, now time.Time) Step {
			if err != nil {
				return undetached(a, err, now)
			}
			return detached(a)
		},
	}}
}

// nodeIDNote is the annotation of an attachment with what its driver calls the node, for when that is gone, as the external attacher has
// it.
const nodeIDNote = "csi.alpha.kubernetes.io/node-id"

func detached(a *storagev1.VolumeAttachment) Step {
	return Step{Changes: []Change{{Reason: "its driver has detached the volume", Object: changed(a, func(a *storagev1.VolumeAttachment) {
		a.Finalizers = without(a.Finalizers, attachFinalizer(a.Spec.Attacher))
	})}}}
}

func undetached(a *storagev1.VolumeAttachment, err error, now time.Time) Step {
	return Step{
		Failed: fmt.Errorf("cannot detach volume %s from node %s: %w", kinds.AttachedVolume(a), a.Spec.NodeName, err),
		Changes: []Change{{Status: true, Reason: "its driver cannot detach the volume",
			Object: changed(a, func(a *storagev1.VolumeAttachment) { a.Status.DetachError = volumeError(err, now) })}},
	}
}
