// Package endpointslice keeps the EndpointSlices of Services that select pods.
package endpointslice

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

const (
	// manager is the value of the label managed-by: Kubernetes' own controller's, which tools look for.
	manager = "endpointslice-controller.k8s.io"
	// sliceSize bounds the endpoints of a slice: Kubernetes' --max-endpoints-per-slice.
	sliceSize = 100
)

// selecting is why slices are shared with the loop that lists the API servers.
const selecting = "only slices that belong to a service which selects pods are changed"

// New returns the reconciler of endpoint slices.
func New() loop.Reconciler {
	service := kinds.For[*corev1.Service]()
	return loop.Reconciler{
		Name:      "endpointslice",
		Component: "endpoint-slice-controller",
		Owner:     service,
		Reads: []loop.Read{
			{Kind: kinds.For[*corev1.Pod](), How: "the services that select it", Keys: selectors, Changed: podMatters},
			{Kind: kinds.For[*discoveryv1.EndpointSlice](), How: "its service", Keys: loop.ControllerKeys(service)},
			{Kind: kinds.For[*corev1.Node](), How: "one that changed zones: the services of its pods",
				Keys: servicesOfNode, Changed: zoneChanged},
		},
		Writes: []loop.Write{{
			Kind: kinds.For[*discoveryv1.EndpointSlice](), Create: true, Delete: true, Children: true, Derived: true,
			Fields: []string{"metadata.labels", "endpoints", "ports"},
			Shared: map[string]string{"metadata.labels": selecting, "endpoints": selecting, "ports": selecting},
		}},
		Decide: decide,
	}
}

// selectors maps a pod to the services that select it.
func selectors(v *view.View, o kinds.Object) []kinds.Key {
	var keys []kinds.Key
	for s := range view.List[*corev1.Service](v, o.GetNamespace()) {
		if len(s.Spec.Selector) > 0 && selects(s, o) {
			keys = append(keys, kinds.KeyOf(s))
		}
	}
	return keys
}

// podMatters says whether an update of a pod can change an endpoint.
func podMatters(old, new kinds.Object) bool {
	a, b := old.(*corev1.Pod), new.(*corev1.Pod)
	return podstatus.Ready(&a.Status) != podstatus.Ready(&b.Status) || podstatus.Finished(&a.Status) != podstatus.Finished(&b.Status) ||
		(a.DeletionTimestamp == nil) != (b.DeletionTimestamp == nil) || a.UID != b.UID ||
		a.Spec.NodeName != b.Spec.NodeName || a.Spec.Hostname != b.Spec.Hostname || a.Spec.Subdomain != b.Spec.Subdomain ||
		!slices.Equal(a.Status.PodIPs, b.Status.PodIPs) || a.Status.PodIP != b.Status.PodIP ||
		!equality.Semantic.DeepEqual(a.Labels, b.Labels)
}

func selects(s *corev1.Service, pod kinds.Object) bool {
	labels := pod.GetLabels()
	for k, v := range s.Spec.Selector {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

func servicesOfNode(v *view.View, node kinds.Object) []kinds.Key {
	seen := map[kinds.Key]bool{}
	var keys []kinds.Key
	for p := range v.PodsOnNode(node.GetName()) {
		for _, k := range selectors(v, p) {
			if !seen[k] {
				seen[k] = true
				keys = append(keys, k)
			}
		}
	}
	return keys
}

func zoneChanged(old, new kinds.Object) bool {
	return old.GetLabels()[corev1.LabelTopologyZone] != new.GetLabels()[corev1.LabelTopologyZone]
}

func decide(v *view.View, key kinds.Key, _ time.Time) (loop.Decision, error) {
	s, ok := v.Get(key).(*corev1.Service)
	if !ok || s.DeletionTimestamp != nil {
		return kept(v, s), nil
	}
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		return loop.Decision{}, nil // slices from an earlier type are derived, and go
	}
	if len(s.Spec.Selector) == 0 {
		return kept(v, s), nil
	}
	var d loop.Decision
	var existing []*discoveryv1.EndpointSlice
	for o := range v.Controlled(s.UID) {
		slice, ok := o.(*discoveryv1.EndpointSlice)
		switch {
		case !ok:
		case slice.Labels[discoveryv1.LabelManagedBy] != manager:
			d.Wants = append(d.Wants, loop.Want{Object: slice, Reason: "it is managed by somebody else"})
		case slice.DeletionTimestamp == nil:
			existing = append(existing, slice)
		}
	}
	var selected []*corev1.Pod
	for p := range view.List[*corev1.Pod](v, s.Namespace) {
		if selects(s, p) {
			selected = append(selected, p)
		}
	}
	for _, family := range familiesOf(s) {
		mine := slices.DeleteFunc(slices.Clone(existing), func(e *discoveryv1.EndpointSlice) bool { return e.AddressType != family })
		d.Wants = append(d.Wants, arrange(s, family, groups(v, s, family, selected), mine)...)
	}
	return d, nil
}

// kept wants the slices of a service that is not for this loop to change.
func kept(v *view.View, s *corev1.Service) (d loop.Decision) {
	if s == nil {
		return d
	}
	for o := range v.Controlled(s.UID) {
		if slice, ok := o.(*discoveryv1.EndpointSlice); ok {
			d.Wants = append(d.Wants, loop.Want{Object: slice, Reason: "its service selects no pods, or is going away"})
		}
	}
	return d
}

// familiesOf returns the address types of a service's slices. A service that has no families yet gets its slices once it
// has them.
func familiesOf(s *corev1.Service) (types []discoveryv1.AddressType) {
	for _, f := range s.Spec.IPFamilies {
		types = append(types, discoveryv1.AddressType(f))
	}
	return types
}
