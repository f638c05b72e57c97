// Package mirror keeps EndpointSlices of Endpoints that somebody wrote for a Service without a selector.
package mirror

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/api/v1/endpoints"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

const (
	// capacity bounds the addresses of a subset: Kubernetes' --mirroring-max-endpoints-per-subset.
	capacity = 1000
	// leader is an annotation of Endpoints that hold an election, and no addresses (client-go's resourcelock).
	leader = "control-plane.alpha.kubernetes.io/leader"
)

// owned is why slices are shared with the loops that make those of services.
const owned = "only slices that Endpoints control are changed"

// New returns the reconciler of mirrored slices.
func New() loop.Reconciler {
	kind := kinds.For[*corev1.Endpoints]()
	return loop.Reconciler{
		Name:      "mirror",
		Component: "endpoint-slice-mirroring-controller",
		Owner:     kind,
		Reads: []loop.Read{
			{Kind: kinds.For[*corev1.Service](), How: "the endpoints of its name", Keys: named, Changed: selectorChanged},
			{Kind: kinds.For[*discoveryv1.EndpointSlice](), How: "its endpoints", Keys: loop.ControllerKeys(kind)},
		},
		Writes: []loop.Write{{
			Kind: kinds.For[*discoveryv1.EndpointSlice](), Create: true, Delete: true, Children: true, Derived: true,
			Fields: []string{"metadata.labels", "metadata.annotations", "endpoints", "ports"},
			Shared: map[string]string{"metadata.labels": owned, "endpoints": owned, "ports": owned},
		}},
		Decide: decide,
	}
}

func named(_ *view.View, o kinds.Object) []kinds.Key {
	return []kinds.Key{kinds.For[*corev1.Endpoints]().Key(o.GetNamespace(), o.GetName())}
}

func selectorChanged(old, new kinds.Object) bool {
	return (len(old.(*corev1.Service).Spec.Selector) == 0) != (len(new.(*corev1.Service).Spec.Selector) == 0)
}

func decide(v *view.View, key kinds.Key, _ time.Time) (d loop.Decision, err error) {
	tell := func(reason, message string) {
		d.Events = append(d.Events, loop.Event{Type: corev1.EventTypeWarning, Reason: reason, Message: message})
	}
	e, ok := v.Get(key).(*corev1.Endpoints)
	if !ok || !meant(e) {
		return d, nil // slices that are there are derived, and go
	}
	switch s, there := view.Get[*corev1.Service](v, e.Namespace, e.Name); {
	case !there:
		return d, nil
	case len(s.Spec.Selector) > 0:
		tell("ServiceHasSelector", "Not mirrored to EndpointSlices: Service "+s.Name+" selects its pods")
		return d, nil
	}
	var existing []*discoveryv1.EndpointSlice
	for o := range v.Controlled(e.UID) {
		if slice, ok := o.(*discoveryv1.EndpointSlice); ok && slice.DeletionTimestamp == nil {
			existing = append(existing, slice)
		}
	}
	wanted, invalid, skipped := slicesOf(e)
	for _, w := range wanted {
		i := slices.IndexFunc(existing, func(s *discoveryv1.EndpointSlice) bool { return id(s) == id(w) })
		if i < 0 {
			d.Wants = append(d.Wants, loop.Want{Object: w, Reason: "no slice has these ports", Failed: failed("create", e)})
			continue
		}
		d.Wants = append(d.Wants, update(e, existing[i], w))
		existing = slices.Delete(existing, i, i+1)
	}
	if invalid > 0 {
		tell("InvalidIPAddress", fmt.Sprintf("Skipped %d invalid IP addresses when mirroring to EndpointSlices", invalid))
	}
	if skipped > 0 {
		tell("TooManyAddressesToMirror", fmt.Sprintf(
			"A max of %d addresses can be mirrored to EndpointSlices per Endpoints subset. %d addresses were skipped",
			capacity, skipped+invalid))
	}
	return d, nil
}

// meant says whether endpoints are somebody's own, and meant for a service.
func meant(e *corev1.Endpoints) bool {
	_, elects := e.Annotations[leader]
	derived := metav1.GetControllerOfNoCopy(e) != nil
	return e.DeletionTimestamp == nil && !derived && !elects && e.Labels[discoveryv1.LabelSkipMirror] != "true"
}

// failed is told where a slice is refused, as one of two ports with one name is.
func failed(verb string, e *corev1.Endpoints) *loop.Event {
	return &loop.Event{
		Type: corev1.EventTypeWarning, Reason: "FailedToUpdateEndpointSlices",
		Message: "failed to " + verb + " EndpointSlice for Endpoints " + e.Namespace + "/" + e.Name + ": {cause}",
	}
}

// slicesOf returns a slice for each subset and family, with how many addresses are none, and how many are beyond the capacity.
func slicesOf(e *corev1.Endpoints) (list []*discoveryv1.EndpointSlice, invalid, skipped int) {
	for _, subset := range endpoints.RepackSubsets(e.Subsets) {
		byFamily, added := map[discoveryv1.AddressType]*discoveryv1.EndpointSlice{}, 0
		add := func(addresses []corev1.EndpointAddress, ready bool) {
			for i := range addresses {
				ip, err := netip.ParseAddr(addresses[i].IP)
				switch {
				case added == capacity:
					skipped++
					continue
				case err != nil:
					invalid++
					continue
				}
				family := discoveryv1.AddressTypeIPv4
				if !ip.Unmap().Is4() {
					family = discoveryv1.AddressTypeIPv6
				}
				if byFamily[family] == nil {
					byFamily[family] = newSlice(e, family, subset.Ports)
				}
				byFamily[family].Endpoints = append(byFamily[family].Endpoints, endpointOf(&addresses[i], ip.Unmap(), ready))
				added++
			}
		}
		add(subset.Addresses, true)
		add(subset.NotReadyAddresses, false)
		list = slices.AppendSeq(list, maps.Values(byFamily))
	}
	slices.SortFunc(list, func(a, b *discoveryv1.EndpointSlice) int { return cmp.Compare(id(a), id(b)) })
	return list, invalid, skipped
}

func endpointOf(a *corev1.EndpointAddress, ip netip.Addr, ready bool) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{
		Addresses: []string{ip.String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
		TargetRef: a.TargetRef, NodeName: a.NodeName,
	}
	if a.Hostname != "" {
		hostname := a.Hostname
		e.Hostname = &hostname
	}
	return e
}

func newSlice(e *corev1.Endpoints, family discoveryv1.AddressType, ports []corev1.EndpointPort) *discoveryv1.EndpointSlice {
	labels, annotations := maps.Clone(e.Labels), maps.Clone(e.Annotations)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[discoveryv1.LabelServiceName] = e.Name
	labels[discoveryv1.LabelManagedBy] = kinds.SliceMirror
	delete(annotations, corev1.EndpointsLastChangeTriggerTime)
	delete(annotations, corev1.LastAppliedConfigAnnotation)
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: e.Namespace, GenerateName: e.Name + "-", Labels: labels, Annotations: annotations,
			OwnerReferences: []metav1.OwnerReference{loop.ControllerRef(e)},
		},
		AddressType: family,
		Ports:       []discoveryv1.EndpointPort{},
	}
	for _, p := range ports {
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{
			Name: &p.Name, Port: &p.Port, Protocol: &p.Protocol, AppProtocol: p.AppProtocol,
		})
	}
	return slice
}

// id is the same for slices of one family and the same ports.
func id(s *discoveryv1.EndpointSlice) string {
	texts := []string{}
	for _, p := range s.Ports {
		text, err := json.Marshal(p)
		if err != nil {
			panic("mirror: a port has no JSON form: " + err.Error())
		}
		texts = append(texts, string(text))
	}
	slices.Sort(texts)
	return string(s.AddressType) + strings.Join(texts, "")
}

func update(e *corev1.Endpoints, was, want *discoveryv1.EndpointSlice) loop.Want {
	if maps.Equal(was.Labels, want.Labels) && maps.Equal(was.Annotations, want.Annotations) &&
		equality.Semantic.DeepEqual(was.Endpoints, want.Endpoints) {
		return loop.Want{Object: was, Reason: "as it should be"}
	}
	changed := was.DeepCopy()
	changed.Labels, changed.Annotations, changed.Endpoints = want.Labels, want.Annotations, want.Endpoints
	return loop.Want{Object: changed, Reason: "the endpoints changed", Failed: failed("update", e)}
}
