package endpointslice

import (
	"cmp"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/reconcilers/loop"
)

// arrange puts the groups' endpoints into slices so that few slices change: an endpoint stays in the slice where it is,
// a new one goes to a slice that changes anyway, or else to the fullest that has room, or else to a new one. The existing
// slices that it does not return are not needed any more. Without any endpoint one empty slice remains, as a sign that
// the service was seen.
func arrange(s *corev1.Service, family discoveryv1.AddressType, groups []*group, existing []*discoveryv1.EndpointSlice) []loop.Want {
	var wants []loop.Want
	labels := labelsOf(s)
	for _, g := range groups {
		var same []*discoveryv1.EndpointSlice
		for _, e := range existing {
			if portsID(e.Ports) == g.id {
				same = append(same, e)
			}
		}
		wants = append(wants, g.arrange(s, family, labels, same)...)
	}
	if len(wants) > 0 {
		return wants
	}
	if len(existing) == 0 {
		return []loop.Want{{Object: newSlice(s, family, labels), Reason: "the service has no endpoints yet"}}
	}
	last := slices.MinFunc(existing, func(a, b *discoveryv1.EndpointSlice) int {
		return cmp.Or(cmp.Compare(len(a.Endpoints), len(b.Endpoints)), cmp.Compare(a.Name, b.Name))
	})
	return []loop.Want{wantSlice(last, labels, nil, []discoveryv1.EndpointPort{}, "the service has no endpoints")}
}

// draft is a slice in the making.
type draft struct {
	was       *discoveryv1.EndpointSlice // nil: a new one
	endpoints []discoveryv1.Endpoint
	changed   bool
}

func (g *group) arrange(s *corev1.Service, family discoveryv1.AddressType, labels map[string]string,
	existing []*discoveryv1.EndpointSlice) []loop.Want {
	missing := make(map[types.UID]*discoveryv1.Endpoint, len(g.endpoints))
	for i := range g.endpoints {
		missing[podOf(&g.endpoints[i])] = &g.endpoints[i]
	}
	var drafts []*draft
	for _, slice := range existing {
		d := &draft{was: slice}
		for i := range slice.Endpoints {
			pod := podOf(&slice.Endpoints[i])
			now, ok := missing[pod]
			if !ok || len(d.endpoints) == sliceSize {
				d.changed = true
				continue
			}
			delete(missing, pod)
			d.changed = d.changed || !equality.Semantic.DeepEqual(*now, slice.Endpoints[i])
			d.endpoints = append(d.endpoints, *now)
		}
		drafts = append(drafts, d)
	}
	var added []discoveryv1.Endpoint
	for i := range g.endpoints {
		if missing[podOf(&g.endpoints[i])] != nil {
			added = append(added, g.endpoints[i])
		}
	}
	drafts = place(drafts, added)

	var wants []loop.Want
	for _, d := range drafts {
		switch {
		case len(d.endpoints) == 0:
		case d.was == nil:
			slice := newSlice(s, family, labels)
			slice.Endpoints, slice.Ports = d.endpoints, g.ports
			wants = append(wants, loop.Want{Object: slice, Reason: "its endpoints fit in no other slice"})
		case d.changed:
			wants = append(wants, wantSlice(d.was, labels, d.endpoints, d.was.Ports, "its endpoints changed"))
		default:
			wants = append(wants, wantSlice(d.was, labels, d.was.Endpoints, d.was.Ports, "its labels changed"))
		}
	}
	return wants
}

// place adds endpoints to drafts: first fills those that change anyway, then, if the rest fits into one, the fullest that
// takes all of it, then makes new ones.
func place(drafts []*draft, added []discoveryv1.Endpoint) []*draft {
	put := func(d *draft) {
		n := min(sliceSize-len(d.endpoints), len(added))
		if n <= 0 {
			return
		}
		d.endpoints, d.changed = append(d.endpoints, added[:n]...), true
		added = added[n:]
	}
	for _, d := range drafts {
		if d.changed && len(d.endpoints) > 0 {
			put(d)
		}
	}
	for len(added) > sliceSize {
		d := &draft{}
		put(d)
		drafts = append(drafts, d)
	}
	if len(added) == 0 {
		return drafts
	}
	var best *draft
	for _, d := range drafts {
		fits := len(d.endpoints)+len(added) <= sliceSize
		if fits && (best == nil || len(d.endpoints) > len(best.endpoints)) {
			best = d
		}
	}
	if best == nil {
		best = &draft{}
		drafts = append(drafts, best)
	}
	put(best)
	return drafts
}

func wantSlice(was *discoveryv1.EndpointSlice, labels map[string]string, endpoints []discoveryv1.Endpoint,
	ports []discoveryv1.EndpointPort, reason string) loop.Want {
	if maps.Equal(was.Labels, labels) && equality.Semantic.DeepEqual(was.Endpoints, endpoints) &&
		equality.Semantic.DeepEqual(was.Ports, ports) {
		return loop.Want{Object: was, Reason: "as it should be"}
	}
	changed := was.DeepCopy()
	changed.Labels, changed.Endpoints, changed.Ports = labels, endpoints, ports
	return loop.Want{Object: changed, Reason: reason}
}

func newSlice(s *corev1.Service, family discoveryv1.AddressType, labels map[string]string) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       s.Namespace,
			GenerateName:    s.Name + "-",
			Labels:          labels,
			OwnerReferences: []metav1.OwnerReference{loop.ControllerRef(s)},
		},
		AddressType: family,
		Endpoints:   []discoveryv1.Endpoint{},
		Ports:       []discoveryv1.EndpointPort{},
	}
}

// labelsOf returns the labels of a service's slices: its own, the slices' own, and the mark of a headless service.
func labelsOf(s *corev1.Service) map[string]string {
	labels := maps.Clone(s.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	delete(labels, corev1.IsHeadlessService)
	labels[discoveryv1.LabelServiceName] = s.Name
	labels[discoveryv1.LabelManagedBy] = manager
	if s.Spec.ClusterIP == corev1.ClusterIPNone {
		labels[corev1.IsHeadlessService] = ""
	}
	return labels
}
