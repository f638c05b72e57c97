// Package endpoints keeps the Endpoints of Services: their EndpointSlices in the older form, for those who still read it.
package endpoints

import (
	"maps"
	"slices"
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

// capacity bounds the addresses of one object, as Kubernetes' endpoints controller does: what has more is cut and says so.
const capacity = 1000

// New returns the reconciler of endpoints. It leaves those that a source states, by stated, to the source; nil: none are.
func New(stated func(*view.View, kinds.Key) bool) loop.Reconciler {
	service := kinds.For[*corev1.Service]()
	kind := kinds.For[*corev1.Endpoints]()
	return loop.Reconciler{
		Name:      "endpoints",
		Component: "endpoint-controller",
		Owner:     service,
		Reads: []loop.Read{
			{Kind: kinds.For[*discoveryv1.EndpointSlice](), How: "the service that its label names", Keys: labelled},
			{Kind: kind, How: "the service of its name", Keys: named},
		},
		Writes: []loop.Write{{
			Kind: kind, Create: true, Delete: true, Children: true, Derived: true,
			Fields: []string{"metadata.labels", "metadata.annotations", "metadata.ownerReferences", "subsets"},
			Shared: map[string]string{"metadata.ownerReferences": loop.OwnReference},
		}},
		Records: stated != nil,
		Decide: func(v *view.View, key kinds.Key, _ time.Time) (loop.Decision, error) {
			if stated != nil && stated(v, kinds.For[*corev1.Endpoints]().Key(key.Namespace, key.Name)) {
				return release(v, key), nil
			}
			return decide(v, key), nil
		},
	}
}

func named(_ *view.View, o kinds.Object) []kinds.Key {
	return []kinds.Key{kinds.For[*corev1.Service]().Key(o.GetNamespace(), o.GetName())}
}

// release leaves endpoints that were the service's to whoever states them now.
func release(v *view.View, key kinds.Key) loop.Decision {
	old, there := view.Get[*corev1.Endpoints](v, key.Namespace, key.Name)
	s, ok := v.Get(key).(*corev1.Service)
	if !there || !ok || !metav1.IsControlledBy(old, s) {
		return loop.Decision{}
	}
	changed := old.DeepCopy()
	delete(changed.Labels, managedBy)
	changed.OwnerReferences = slices.DeleteFunc(changed.OwnerReferences, func(r metav1.OwnerReference) bool { return r.UID == s.UID })
	return loop.Decision{Wants: []loop.Want{{Object: changed, Reason: "a source states them"}}}
}

func labelled(_ *view.View, o kinds.Object) []kinds.Key {
	name := o.GetLabels()[discoveryv1.LabelServiceName]
	if name == "" {
		return nil
	}
	return []kinds.Key{kinds.For[*corev1.Service]().Key(o.GetNamespace(), name)}
}

func decide(v *view.View, key kinds.Key) loop.Decision {
	s, ok := v.Get(key).(*corev1.Service)
	if !ok || s.DeletionTimestamp != nil || s.Spec.Type == corev1.ServiceTypeExternalName {
		return loop.Decision{} // they are derived, and go
	}
	found := slicesOf(v, s)
	if len(found) == 0 && len(s.Spec.Selector) == 0 {
		return loop.Decision{}
	}
	subsets, whole := cut(endpoints.RepackSubsets(subsetsOf(found)))
	labels, annotations := labelsOf(s), map[string]string(nil)
	if !whole {
		annotations = map[string]string{corev1.EndpointsOverCapacity: "truncated"}
	}
	old, ok := view.Get[*corev1.Endpoints](v, s.Namespace, s.Name)
	if !ok {
		return loop.Decision{Wants: []loop.Want{{
			Object: &corev1.Endpoints{
				ObjectMeta: metav1.ObjectMeta{
					Namespace: s.Namespace, Name: s.Name, Labels: labels, Annotations: annotations,
					OwnerReferences: []metav1.OwnerReference{loop.ControllerRef(s)},
				},
				Subsets: subsets,
			},
			Reason: "the service has slices, or selects pods",
		}}}
	}
	if !metav1.IsControlledBy(old, s) {
		return loop.Decision{} // of an earlier service of that name, which the garbage collector takes first, or somebody's own
	}
	changed := old.DeepCopy()
	changed.Labels, changed.Annotations, changed.Subsets = labels, annotations, subsets
	if maps.Equal(old.Labels, labels) && maps.Equal(old.Annotations, annotations) && equality.Semantic.DeepEqual(old.Subsets, subsets) {
		return loop.Decision{Wants: []loop.Want{{Object: old, Reason: "as it should be"}}}
	}
	return loop.Decision{Wants: []loop.Want{{Object: changed, Reason: "the slices changed"}}}
}

// slicesOf returns the service's slices of its first family, which is the only one that Endpoints have, but not those that were
// made from Endpoints.
func slicesOf(v *view.View, s *corev1.Service) (found []*discoveryv1.EndpointSlice) {
	family := discoveryv1.AddressTypeIPv4
	if len(s.Spec.IPFamilies) > 0 && s.Spec.IPFamilies[0] == corev1.IPv6Protocol {
		family = discoveryv1.AddressTypeIPv6
	}
	for slice := range v.SlicesOfService(s.Namespace, s.Name) {
		if slice.AddressType == family && slice.DeletionTimestamp == nil && slice.Labels[discoveryv1.LabelManagedBy] != kinds.SliceMirror {
			found = append(found, slice)
		}
	}
	return found
}

// subsetsOf is the slices' endpoints, ready and not. Those that are ending have no place in Endpoints.
func subsetsOf(found []*discoveryv1.EndpointSlice) (subsets []corev1.EndpointSubset) {
	for _, slice := range found {
		ports := portsOf(slice.Ports)
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			ready := e.Conditions.Ready == nil || *e.Conditions.Ready
			ending := e.Conditions.Terminating != nil && *e.Conditions.Terminating
			if len(e.Addresses) == 0 || ending && !ready {
				continue
			}
			address := corev1.EndpointAddress{IP: e.Addresses[0], NodeName: e.NodeName, TargetRef: e.TargetRef}
			if e.Hostname != nil {
				address.Hostname = *e.Hostname
			}
			subset := corev1.EndpointSubset{Ports: ports}
			if ready {
				subset.Addresses = []corev1.EndpointAddress{address}
			} else {
				subset.NotReadyAddresses = []corev1.EndpointAddress{address}
			}
			subsets = append(subsets, subset)
		}
	}
	return subsets
}

func portsOf(ports []discoveryv1.EndpointPort) (out []corev1.EndpointPort) {
	for _, p := range ports {
		if p.Port == nil {
			continue
		}
		port := corev1.EndpointPort{Port: *p.Port, Protocol: corev1.ProtocolTCP, AppProtocol: p.AppProtocol}
		if p.Name != nil {
			port.Name = *p.Name
		}
		if p.Protocol != nil {
			port.Protocol = *p.Protocol
		}
		out = append(out, port)
	}
	return out
}

// cut keeps as many addresses as one object may have, those that are ready first, and says whether that is all.
func cut(subsets []corev1.EndpointSubset) (kept []corev1.EndpointSubset, whole bool) {
	room, whole := capacity, true
	take := func(list []corev1.EndpointAddress) []corev1.EndpointAddress {
		if len(list) > room {
			list, whole = list[:room], false
		}
		room -= len(list)
		return list
	}
	for i := range subsets {
		subsets[i].Addresses = take(subsets[i].Addresses)
	}
	for i := range subsets {
		subsets[i].NotReadyAddresses = take(subsets[i].NotReadyAddresses)
	}
	kept = slices.DeleteFunc(subsets, func(s corev1.EndpointSubset) bool { return len(s.Addresses)+len(s.NotReadyAddresses) == 0 })
	return kept, whole
}

// managedBy marks what a controller keeps, so that nobody mirrors it into slices again
// (k8s.io/kubernetes/pkg/controller/endpoint).
const managedBy = "endpoints.kubernetes.io/managed-by"

func labelsOf(s *corev1.Service) map[string]string {
	labels := maps.Clone(s.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	delete(labels, corev1.IsHeadlessService)
	labels[managedBy] = "endpoint-controller"
	if s.Spec.ClusterIP == corev1.ClusterIPNone {
		labels[corev1.IsHeadlessService] = ""
	}
	return labels
}
