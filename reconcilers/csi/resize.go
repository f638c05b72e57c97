package csi

import (
	"fmt"
	"slices"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/store/view"
)

// resizer signs the events about a driver's volumes that grow.
func resizer(driver string) string { return "external-resizer " + driver }

// before is the annotation of a volume with its size before it grew, for the node that grows what is in it.
const before = "volume.alpha.kubernetes.io/pre-resize-capacity"

// Resize decides about a bound claim that asks for more than its volume is: its driver makes the volume larger, then the node what is
// in it, where that is needed.
func Resize(v *view.View, namespace, name string, ask Asks, _ time.Time) Step {
	c, ok := view.Get[*corev1.PersistentVolumeClaim](v, namespace, name)
	if !ok || c.Status.Phase != corev1.ClaimBound || c.DeletionTimestamp != nil {
		return Step{}
	}
	pv, _ := view.Get[*corev1.PersistentVolume](v, "", c.Spec.VolumeName)
	source := kinds.CSIOf(pv)
	if source == nil || pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID != c.UID || pv.DeletionTimestamp != nil {
		return Step{}
	}
	wanted, has, told := c.Spec.Resources.Requests[corev1.ResourceStorage], pv.Spec.Capacity[corev1.ResourceStorage],
		c.Status.Capacity[corev1.ResourceStorage]
	if wanted.Cmp(told) <= 0 || !served(v, source.Driver) {
		return Step{}
	}
	driver := ask(source.Driver)
	if driver == nil {
		return Step{Ask: source.Driver}
	}
	g := growth{c, pv, wanted}
	grows := driver.Can[csipb.ControllerServiceCapability_RPC_EXPAND_VOLUME]
	switch {
	case has.Cmp(wanted) >= 0:
		return Step{} // the node's turn
	case !driver.Online && !driver.Offline:
		return g.failed(fmt.Errorf("CSI driver %s does not expand volumes", source.Driver))
	case !driver.Online && used(v, c):
		return g.failed(fmt.Errorf("volume %s is in use, and CSI driver %s expands none that is", pv.Name, source.Driver))
	}
	if start := g.begin(); start != nil {
		return *start
	}
	if !grows {
		return g.done(wanted.Value(), true)
	}
	secrets, err := secret(v, source.ControllerExpandSecretRef)
	if err != nil {
		return g.failed(err)
	}
	return Step{Call: &Call{
		Driver: source.Driver, Near: around(v, pv),
		Request: &csipb.ControllerExpandVolumeRequest{
			VolumeId: source.VolumeHandle, Secrets: secrets, VolumeCapability: driver.capability(pv),
			CapacityRange: &csipb.CapacityRange{RequiredBytes: wanted.Value()},
		},
		Then: func(answer any, err error, _ time.Time) Step {
			if err != nil {
				return g.failed(err)
			}
			got := answer.(*csipb.ControllerExpandVolumeResponse)
			if got.GetCapacityBytes() < wanted.Value() {
				return g.failed(fmt.Errorf("the driver has made it %d bytes of %d", got.GetCapacityBytes(), wanted.Value()))
			}
			return g.done(got.GetCapacityBytes(), got.GetNodeExpansionRequired())
		},
	}}
}

// used says that a pod with a node mounts a claim.
func used(v *view.View, c *corev1.PersistentVolumeClaim) bool {
	for p := range view.List[*corev1.Pod](v, c.Namespace) {
		if p.Spec.NodeName != "" && !podstatus.Finished(&p.Status) && mounts(p, c.Name) {
			return true
		}
	}
	return false
}

// growth is a claim whose volume grows.
type growth struct {
	claim  *corev1.PersistentVolumeClaim
	pv     *corev1.PersistentVolume
	wanted resource.Quantity
}

// stage is a claim that says how far it is.
func (g growth) stage(at corev1.ClaimResourceStatus, conditions ...corev1.PersistentVolumeClaimCondition) Change {
	return Change{Status: true, Reason: "its volume grows: " + string(at), Object: changed(g.claim, func(c *corev1.PersistentVolumeClaim) {
		if c.Status.AllocatedResources == nil {
			c.Status.AllocatedResources = corev1.ResourceList{}
		}
		c.Status.AllocatedResources[corev1.ResourceStorage] = g.wanted
		if c.Status.AllocatedResourceStatuses == nil {
			c.Status.AllocatedResourceStatuses = map[corev1.ResourceName]corev1.ClaimResourceStatus{}
		}
		c.Status.AllocatedResourceStatuses[corev1.ResourceStorage] = at
		c.Status.Conditions = append(others(c), conditions...)
	})}
}

// others are a claim's conditions that say nothing of growing.
func others(c *corev1.PersistentVolumeClaim) []corev1.PersistentVolumeClaimCondition {
	return slices.DeleteFunc(slices.Clone(c.Status.Conditions), func(o corev1.PersistentVolumeClaimCondition) bool {
		switch o.Type {
		case corev1.PersistentVolumeClaimResizing, corev1.PersistentVolumeClaimFileSystemResizePending,
			corev1.PersistentVolumeClaimControllerResizeError, corev1.PersistentVolumeClaimNodeResizeError:
			return true
		}
		return false
	})
}

// begin notes what is asked for before it is; nil: that is noted.
func (g growth) begin() *Step {
	noted := g.claim.Status.AllocatedResources[corev1.ResourceStorage]
	at := g.claim.Status.AllocatedResourceStatuses[corev1.ResourceStorage]
	if noted.Cmp(g.wanted) == 0 && (at == corev1.PersistentVolumeClaimControllerResizeInProgress ||
		at == corev1.PersistentVolumeClaimControllerResizeInfeasible) {
		return nil
	}
	return &Step{
		Changes: []Change{g.stage(corev1.PersistentVolumeClaimControllerResizeInProgress,
			corev1.PersistentVolumeClaimCondition{Type: corev1.PersistentVolumeClaimResizing, Status: corev1.ConditionTrue})},
		Events: []Event{normal(resizer(g.pv.Spec.CSI.Driver), g.claim, "Resizing", "External resizer is resizing volume %s", g.pv.Name)},
	}
}

// done notes that the volume is larger, and leaves the rest to the node where there is any.
func (g growth) done(bytes int64, node bool) Step {
	old, now := g.pv.Spec.Capacity[corev1.ResourceStorage], *resource.NewQuantity(bytes, resource.BinarySI)
	larger := Change{Reason: "its driver has made it larger", Object: changed(g.pv, func(pv *corev1.PersistentVolume) {
		pv.Spec.Capacity[corev1.ResourceStorage] = now
		if node {
			metav1.SetMetaDataAnnotation(&pv.ObjectMeta, before, old.String())
		}
	})}
	if node {
		s := g.toNode()
		s.Changes = append(s.Changes, larger)
		return s
	}
	finished := Change{Status: true, Reason: "its volume is larger", Object: changed(g.claim, func(c *corev1.PersistentVolumeClaim) {
		c.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: now}
		delete(c.Status.AllocatedResourceStatuses, corev1.ResourceStorage)
		c.Status.AllocatedResources = corev1.ResourceList{corev1.ResourceStorage: g.wanted}
		c.Status.Conditions = others(c)
	})}
	return Step{Changes: []Change{finished, larger},
		Events: []Event{normal(resizer(g.pv.Spec.CSI.Driver), g.claim, "VolumeResizeSuccessful", "Resize volume succeeded")}}
}

func (g growth) toNode() Step {
	return Step{
		Changes: []Change{g.stage(corev1.PersistentVolumeClaimNodeResizePending, corev1.PersistentVolumeClaimCondition{
			Type: corev1.PersistentVolumeClaimFileSystemResizePending, Status: corev1.ConditionTrue,
			Message: "Waiting for user to (re-)start a pod to finish file system resize of volume on node.",
		})},
		Events: []Event{normal(resizer(g.pv.Spec.CSI.Driver), g.claim, "FileSystemResizeRequired",
			"Require file system resize of volume on node")},
	}
}

func (g growth) failed(err error) Step {
	s := Step{
		Failed: fmt.Errorf("cannot expand volume %s: %w", g.pv.Name, err),
		Events: []Event{warning(resizer(g.pv.Spec.CSI.Driver), g.claim, "VolumeResizeFailed", "resize volume %q by resizer %q failed: %v",
			g.pv.Name, g.pv.Spec.CSI.Driver, err)},
	}
	switch status.Code(err) {
	case codes.InvalidArgument, codes.OutOfRange, codes.NotFound:
		if g.claim.Status.AllocatedResourceStatuses[corev1.ResourceStorage] != corev1.PersistentVolumeClaimControllerResizeInfeasible {
			s.Changes = []Change{g.stage(corev1.PersistentVolumeClaimControllerResizeInfeasible, corev1.PersistentVolumeClaimCondition{
				Type: corev1.PersistentVolumeClaimControllerResizeError, Status: corev1.ConditionTrue, Message: err.Error(),
			})}
		}
	}
	return s
}
