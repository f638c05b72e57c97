// Package csi decides what CSI drivers are asked to do for claims, volumes and attachments, and what becomes of their answers.
//
// It has the part of Kubernetes' sidecars: the external provisioner, attacher and resizer. A key is decided from a view; a step has
// writes, or a call, whose answer is decided upon in turn. Every call may be made again: that the same was asked before changes
// nothing, as CSI has it.
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

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// Driver is what a driver's controller says of itself.
type Driver struct {
	Name string
	// Can are the calls that it takes.
	Can map[csipb.ControllerServiceCapability_RPC_Type]bool
	// Topology says that not every node reaches every volume.
	Topology bool
	// Online and Offline say that volumes grow while they are mounted, and while they are not.
	Online, Offline bool
}

// Asks returns what a driver says of itself; nil: it is not known yet, and to be asked.
type Asks func(driver string) *Driver

// Step is what is next for a key. The zero value is nothing.
type Step struct {
	// Changes are written together; where one of them has changed meanwhile, none is. The key is decided again once they are seen.
	Changes []Change
	// Events are told once the changes are written.
	Events []Event
	// Ask names a driver that is to say what it can before the key is decided again.
	Ask string
	// Call is made; what its answer asks for is done then.
	Call *Call
	// Failed has the key decided again after a pause that doubles; nil: it waits for a change.
	Failed error
	// Again is when to decide again although nothing has changed; zero: never.
	Again time.Time
	// Measured is what has been measured now, also where that failed.
	Measured kinds.Key
}

// Event is told in the name of a component.
type Event struct {
	Component string
	loop.Event
}

// Change is an object as it should be: one without uid is made, one that is Gone is removed, another is updated, or its Status is.
type Change struct {
	Object       kinds.Object
	Status, Gone bool
	Reason       string
}

// Call is a request to a driver's controller.
type Call struct {
	Driver string
	// Near are nodes whose controller is to be asked where they have one: that of a driver of local disks knows its own alone.
	Near []string
	// Request is one of csipb's.
	Request any
	// Then decides about the answer, which is of the request's kind and nil where err is not.
	Then func(answer any, err error, now time.Time) Step
}

// sanitized is a driver's name as sidecars have it in names of finalizers.
func sanitized(driver string) string {
	out := []byte(driver)
	for i, c := range out {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			out[i] = '-'
		}
	}
	return strings.TrimRight(string(out), "-")
}

// local is the annotation of a CSIDriver whose controllers, one a node, know the volumes of their own node alone: "true".
const local = "lockstep.dev/csi-local"

// Through are the nodes through which the controller of a driver is reached, by name: the near ones first, and none but these where
// each controller knows its own node alone.
func Through(v *view.View, driver string, near []string) []string {
	var close, far []string
	for n := range view.List[*storagev1.CSINode](v, "") {
		switch {
		case !slices.Contains(strings.Split(n.Annotations[kinds.CSIControllers], ","), driver):
		case slices.Contains(near, n.Name):
			close = append(close, n.Name)
		default:
			far = append(far, n.Name)
		}
	}
	slices.Sort(close)
	slices.Sort(far)
	if o, ok := view.Get[*storagev1.CSIDriver](v, "", driver); ok && o.Annotations[local] == "true" && len(near) > 0 {
		return close
	}
	return append(close, far...)
}

// served says whether the controller of a driver is reached at all.
func served(v *view.View, driver string) bool { return len(Through(v, driver, nil)) > 0 }

// none says that a failure tells that there is no volume of that name: a driver that had made one before would not say so. What goes
// wrong inside of it tells nothing, nor does one that is at it.
func none(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.OutOfRange, codes.ResourceExhausted, codes.Unimplemented:
		return true
	}
	return false
}

// with is a copy of finalizers that has one, and without one that has not.
func with(finalizers []string, one string) []string {
	if slices.Contains(finalizers, one) {
		return finalizers
	}
	return append(slices.Clone(finalizers), one)
}

func without(finalizers []string, one string) []string {
	return slices.DeleteFunc(slices.Clone(finalizers), func(f string) bool { return f == one })
}

// changed is a copy of an object that is to be written.
func changed[T kinds.Object](o T, change func(T)) T {
	o = o.DeepCopyObject().(T)
	change(o)
	return o
}

// secret is what a Secret holds, for a driver; nil where none is named.
func secret(v *view.View, ref *corev1.SecretReference) (map[string]string, error) {
	if ref == nil {
		return nil, nil
	}
	s, ok := view.Get[*corev1.Secret](v, ref.Namespace, ref.Name)
	if !ok {
		return nil, fmt.Errorf("error getting secret %s in namespace %s: secrets %q not found", ref.Name, ref.Namespace, ref.Name)
	}
	out := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(s.Data)) {
		out[key] = string(s.Data[key])
	}
	return out, nil
}

// capabilities are what a volume is to be able to, one for each access mode.
func capabilities(d *Driver, modes []corev1.PersistentVolumeAccessMode, mode *corev1.PersistentVolumeMode, fsType string,
	flags []string) (out []*csipb.VolumeCapability) {
	for _, m := range modes {
		c := &csipb.VolumeCapability{AccessMode: &csipb.VolumeCapability_AccessMode{Mode: d.mode(m)}}
		if kinds.Block(mode) {
			c.AccessType = &csipb.VolumeCapability_Block{Block: &csipb.VolumeCapability_BlockVolume{}}
		} else {
			c.AccessType = &csipb.VolumeCapability_Mount{Mount: &csipb.VolumeCapability_MountVolume{FsType: fsType, MountFlags: flags}}
		}
		out = append(out, c)
	}
	return out
}

// mode is an access mode as the driver knows it.
func (d *Driver) mode(m corev1.PersistentVolumeAccessMode) csipb.VolumeCapability_AccessMode_Mode {
	several := d.Can[csipb.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER]
	switch {
	case m == corev1.ReadOnlyMany:
		return csipb.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
	case m == corev1.ReadWriteMany:
		return csipb.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
	case m == corev1.ReadWriteOncePod && several:
		return csipb.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	case m == corev1.ReadWriteOnce && several:
		return csipb.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
	}
	return csipb.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
}

// capability is the one that a volume is published and grows with: that of its widest access mode.
func (d *Driver) capability(pv *corev1.PersistentVolume) *csipb.VolumeCapability {
	widest := corev1.ReadWriteOnce
	for _, m := range []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod,
		corev1.ReadOnlyMany} {
		if slices.Contains(pv.Spec.AccessModes, m) {
			widest = m
			break
		}
	}
	return capabilities(d, []corev1.PersistentVolumeAccessMode{widest}, pv.Spec.VolumeMode, kinds.CSIOf(pv).FSType, pv.Spec.MountOptions)[0]
}

// around are the nodes that a volume says it can be reached from.
func around(v *view.View, pv *corev1.PersistentVolume) (nodes []string) {
	if pv.Spec.NodeAffinity == nil || pv.Spec.NodeAffinity.Required == nil {
		return nil
	}
	for n := range view.List[*corev1.Node](v, "") {
		if selects(pv.Spec.NodeAffinity.Required, n) {
			nodes = append(nodes, n.Name)
		}
	}
	return nodes
}

func warning(component string, about kinds.Object, reason, format string, args ...any) Event {
	return Event{component, loop.Event{About: about, Type: corev1.EventTypeWarning, Reason: reason, Message: fmt.Sprintf(format, args...)}}
}

func normal(component string, about kinds.Object, reason, format string, args ...any) Event {
	return Event{component, loop.Event{About: about, Type: corev1.EventTypeNormal, Reason: reason, Message: fmt.Sprintf(format, args...)}}
}
