package csi

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/store/view"
)

const (
	// measured is how often a driver is asked how much room it has for a class in a place, as by Kubernetes' external provisioner.
	measured = time.Minute
	// The labels of what tells it, and who says so.
	ofDriver, managedBy, provisioner = "csi.storage.k8s.io/drivername", "csi.storage.k8s.io/managed-by", "external-provisioner"
)

// Capacity decides about what is told of a driver's capacity: by class and by place, where its CSIDriver wants the scheduler to go by it.
// One is measured at a time, the one that was longest ago; last says when one was, zero: never.
func Capacity(v *view.View, name string, ask Asks, last func(kinds.Key) time.Time, now time.Time) Step {
	o, ok := view.Get[*storagev1.CSIDriver](v, "", name)
	wants := ok && o.DeletionTimestamp == nil && o.Spec.StorageCapacity != nil && *o.Spec.StorageCapacity
	wanted := map[kinds.Key]*storagev1.CSIStorageCapacity{}
	if wants {
		wanted = places(v, o)
	}
	for c := range view.List[*storagev1.CSIStorageCapacity](v, "") {
		if c.Labels[ofDriver] == name && c.Labels[managedBy] == provisioner && wanted[kinds.KeyOf(c)] == nil && c.DeletionTimestamp == nil {
			return Step{Changes: []Change{{Object: removed(c, now), Gone: true, Reason: "nothing is to be told of its class there"}}}
		}
	}
	due, key := time.Time{}, kinds.Key{}
	for _, k := range slices.SortedFunc(keysOf(wanted), kinds.Key.Compare) {
		if when := last(k); key.Name == "" || when.Before(due) {
			due, key = when, k
		}
	}
	if key.Name == "" || !served(v, name) {
		return Step{}
	}
	if next := due.Add(measured); !due.IsZero() && now.Before(next) {
		return Step{Again: next}
	}
	driver := ask(name)
	switch {
	case driver == nil:
		return Step{Ask: name}
	case !driver.Can[csipb.ControllerServiceCapability_RPC_GET_CAPACITY]:
		return Step{}
	}
	live, _ := v.Get(key).(*storagev1.CSIStorageCapacity)
	return measure(v, driver, wanted[key], live)
}

func keysOf(of map[kinds.Key]*storagev1.CSIStorageCapacity) func(func(kinds.Key) bool) {
	return func(yield func(kinds.Key) bool) {
		for k := range of {
			if !yield(k) {
				return
			}
		}
	}
}

// removed is an object that is being deleted.
func removed(c *storagev1.CSIStorageCapacity, now time.Time) *storagev1.CSIStorageCapacity {
	return changed(c, func(c *storagev1.CSIStorageCapacity) {
		when, none := metav1.NewTime(now), int64(0)
		c.DeletionTimestamp, c.DeletionGracePeriodSeconds = &when, &none
	})
}

// places are what is to be told of a driver: of each of its classes, in each place of its nodes.
func places(v *view.View, o *storagev1.CSIDriver) map[kinds.Key]*storagev1.CSIStorageCapacity {
	out := map[kinds.Key]*storagev1.CSIStorageCapacity{}
	where := segments(v, o.Name)
	if len(where) == 0 {
		where = []segment{{}} // it does not tell nodes apart
	}
	for class := range view.List[*storagev1.StorageClass](v, "") {
		if class.Provisioner != o.Name {
			continue
		}
		for _, s := range where {
			namespace := o.Annotations[kinds.CSINamespace]
			if namespace == "" {
				namespace = metav1.NamespaceSystem
			}
			sum := sha256.Sum256([]byte(strings.Join([]string{o.Name, class.Name, s.String()}, "\x00")))
			c := &storagev1.CSIStorageCapacity{
				ObjectMeta: metav1.ObjectMeta{
					Namespace: namespace, Name: fmt.Sprintf("csisc-%x", sum[:8]),
					Labels: map[string]string{ofDriver: o.Name, managedBy: provisioner},
				},
				StorageClassName: class.Name, NodeTopology: &metav1.LabelSelector{MatchLabels: s},
			}
			out[kinds.KeyOf(c)] = c
		}
	}
	return out
}

// measure asks how much room there is.
func measure(v *view.View, d *Driver, of, live *storagev1.CSIStorageCapacity) Step {
	class, _ := view.Get[*storagev1.StorageClass](v, "", of.StorageClassName)
	parameters := map[string]string{}
	for key, value := range class.Parameters {
		if !strings.HasPrefix(key, reserved) {
			parameters[key] = value
		}
	}
	request := &csipb.GetCapacityRequest{Parameters: parameters}
	var near []string
	if len(of.NodeTopology.MatchLabels) > 0 {
		request.AccessibleTopology = &csipb.Topology{Segments: of.NodeTopology.MatchLabels}
		for n := range view.List[*storagev1.CSINode](v, "") {
			if s, err := segmentOf(v, d.Name, n.Name); err == nil && s.String() == segment(of.NodeTopology.MatchLabels).String() {
				near = append(near, n.Name)
			}
		}
	}
	return Step{Call: &Call{Driver: d.Name, Near: near, Request: request, Then: func(answer any, err error, now time.Time) Step {
		if err != nil {
			return Step{Measured: kinds.KeyOf(of), Failed: fmt.Errorf("cannot tell the capacity of CSI driver %s: %w", d.Name, err)}
		}
		return told(answer.(*csipb.GetCapacityResponse), of, live, now)
	}}}
}

func told(got *csipb.GetCapacityResponse, of, live *storagev1.CSIStorageCapacity, now time.Time) Step {
	next := of
	if live != nil {
		next = live
	}
	next = changed(next, func(c *storagev1.CSIStorageCapacity) {
		c.Labels, c.StorageClassName, c.NodeTopology = of.Labels, of.StorageClassName, of.NodeTopology
		c.Capacity = resource.NewQuantity(max(0, got.GetAvailableCapacity()), resource.BinarySI)
		c.MaximumVolumeSize = nil
		if most := got.GetMaximumVolumeSize(); most != nil {
			c.MaximumVolumeSize = resource.NewQuantity(max(0, most.GetValue()), resource.BinarySI)
		}
	})
	s := Step{Measured: kinds.KeyOf(of), Again: now}
	if live == nil || !equality.Semantic.DeepEqual(next, live) {
		s.Changes = []Change{{Object: next, Reason: "measured by " + of.Labels[ofDriver]}}
	}
	return s
}
