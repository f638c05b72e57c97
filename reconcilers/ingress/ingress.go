// Package ingress tells of Ingresses that the nodes serve where they are served, and what of them is not.
package ingress

import (
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"lockstep/kinds"
	"lockstep/kinds/ingress"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

const (
	// maxAddresses bounds the addresses that are told: a name's records are made of them, and no more fit into an answer that is not cut.
	maxAddresses = 32
	// maxTold is the length of what an annotation tells of what is not served: a few faults in full.
	maxTold = 1024
	// maxEvents bounds the events about one Ingress at once; the rest is counted in the annotation.
	maxEvents = 8
)

// New returns the reconciler of the statuses of Ingresses whose class is of Lockstep's controller.
func New() loop.Reconciler {
	return loop.Reconciler{
		Name:      "ingress",
		Component: "ingress-controller",
		Owner:     kinds.For[*networkingv1.Ingress](),
		Reads: []loop.Read{
			{Kind: kinds.For[*networkingv1.Ingress](), How: "those that may claim the same host and path", Keys: rivals, Changed: stated},
			{Kind: kinds.For[*networkingv1.IngressClass](), How: "all Ingresses", Keys: all},
			{Kind: kinds.For[*corev1.Service](), How: "those of its namespace that name it", Keys: naming(sendsTo), Changed: portsChanged},
			{Kind: kinds.For[*corev1.Secret](), How: "those of its namespace that name it for TLS", Keys: naming(shows)},
			{Kind: kinds.For[*corev1.Node](), How: "all Ingresses, where it serves or did", Keys: all, Changed: kinds.IngressMoved},
		},
		Writes: []loop.Write{{
			Kind: kinds.For[*networkingv1.Ingress](), Fields: []string{"metadata.annotations." + ingress.NotServed, "status"},
		}},
		Decide: func(v *view.View, key kinds.Key, now time.Time) (loop.Decision, error) {
			i, ok := v.Get(key).(*networkingv1.Ingress)
			if !ok || i.DeletionTimestamp != nil {
				return loop.Decision{}, nil
			}
			return decide(v, i, now), nil
		},
	}
}

func all(v *view.View, _ kinds.Object) (keys []kinds.Key) {
	for i := range view.List[*networkingv1.Ingress](v, "") {
		keys = append(keys, kinds.KeyOf(i))
	}
	return keys
}

func rivals(v *view.View, o kinds.Object) (keys []kinds.Key) {
	for i := range view.List[*networkingv1.Ingress](v, "") {
		if ingress.Rivals(i, o.(*networkingv1.Ingress)) {
			keys = append(keys, kinds.KeyOf(i))
		}
	}
	return keys
}

// stated says that more than what is told of an Ingress has changed.
func stated(old, o kinds.Object) bool {
	a, b := old.(*networkingv1.Ingress), o.(*networkingv1.Ingress)
	return a.UID != b.UID || a.Generation != b.Generation || !maps.Equal(a.Annotations, b.Annotations) ||
		(a.DeletionTimestamp == nil) != (b.DeletionTimestamp == nil)
}

func portsChanged(old, o kinds.Object) bool {
	a, b := old.(*corev1.Service), o.(*corev1.Service)
	return a.Spec.Type != b.Spec.Type || !equality.Semantic.DeepEqual(a.Spec.Ports, b.Spec.Ports)
}

// naming are the Ingresses of an object's namespace that name it.
func naming(names func(i *networkingv1.Ingress, name string) bool) func(*view.View, kinds.Object) []kinds.Key {
	return func(v *view.View, o kinds.Object) (keys []kinds.Key) {
		for i := range view.List[*networkingv1.Ingress](v, o.GetNamespace()) {
			if names(i, o.GetName()) {
				keys = append(keys, kinds.KeyOf(i))
			}
		}
		return keys
	}
}

func sendsTo(i *networkingv1.Ingress, service string) bool {
	return slices.ContainsFunc(ingress.Backends(i), func(b ingress.Backend) bool { return b.Service != nil && b.Service.Name == service })
}

func shows(i *networkingv1.Ingress, secret string) bool {
	return slices.Contains(ingress.Secrets(i), secret)
}

func decide(v *view.View, i *networkingv1.Ingress, now time.Time) (d loop.Decision) {
	classes := ingress.Classes{}
	for c := range view.List[*networkingv1.IngressClass](v, "") {
		classes[c.Name] = c
	}
	class := classes.Of(i)
	changed := i.DeepCopy()
	if !ingress.Owned(class) {
		// What its own controller says of it stays.
		delete(changed.Annotations, ingress.NotServed)
		if len(changed.Annotations) < len(i.Annotations) {
			d.Status = changed
		}
		return d
	}
	var same []*networkingv1.Ingress
	for other := range view.List[*networkingv1.Ingress](v, "") {
		if other.DeletionTimestamp == nil && ingress.Rivals(i, other) && classes.Ours(other) {
			same = append(same, other)
		}
	}
	in := kinds.IngressCluster(v.Get, ingress.Arrange(same))
	faults := ingress.Faults(i, in, now)
	d.Again = ingress.Expiry(i, in, now)
	changed.Status.LoadBalancer.Ingress = addresses(v, class)
	tell(changed, ingress.Told(faults, maxTold))
	if changed.Annotations[ingress.NotServed] != i.Annotations[ingress.NotServed] {
		for _, f := range faults[:min(len(faults), maxEvents)] {
			d.Events = append(d.Events, loop.Event{Type: corev1.EventTypeWarning, Reason: f.Reason, Message: f.String()})
		}
	}
	if !equality.Semantic.DeepEqual(changed.Status, i.Status) {
		d.Events = append(d.Events, loop.Event{Type: corev1.EventTypeNormal, Reason: "Sync", Message: "Scheduled for sync"})
	}
	if !equality.Semantic.DeepEqual(changed, i) {
		d.Status = changed
	}
	return d
}

func tell(i *networkingv1.Ingress, text string) {
	if text == "" {
		delete(i.Annotations, ingress.NotServed)
		return
	}
	if i.Annotations == nil {
		i.Annotations = map[string]string{}
	}
	i.Annotations[ingress.NotServed] = text
}

// addresses are those of the nodes that serve a class, in order of their names.
func addresses(v *view.View, class *networkingv1.IngressClass) (out []networkingv1.IngressLoadBalancerIngress) {
	for n := range view.List[*corev1.Node](v, "") {
		if !kinds.ServesIngress(n, class) {
			continue
		}
		for _, a := range told(n) {
			if len(out) < maxAddresses {
				out = append(out, networkingv1.IngressLoadBalancerIngress{IP: a})
			}
		}
	}
	return out
}

// told are a node's addresses for the outside, where it has such, else its own.
func told(n *corev1.Node) (out []string) {
	for _, kind := range []corev1.NodeAddressType{corev1.NodeExternalIP, corev1.NodeInternalIP} {
		for _, a := range n.Status.Addresses {
			if a.Type == kind {
				out = append(out, a.Address)
			}
		}
		if len(out) > 0 {
			break
		}
	}
	return out
}
