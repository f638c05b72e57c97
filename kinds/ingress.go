package kinds

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"lockstep/kinds/ingress"
)

// NodeIngress is the condition by which a node tells whether it serves Ingresses; one that is not to has none.
const NodeIngress corev1.NodeConditionType = "Ingress"

// ServesIngress says that a node serves Ingresses of a class now, as far as it is known.
func ServesIngress(n *corev1.Node, class *networkingv1.IngressClass) bool {
	c := NodeCondition(n, NodeIngress)
	return n.DeletionTimestamp == nil && c != nil && c.Status == corev1.ConditionTrue && NodeReady(n) && ingress.Selects(class, n.Labels)
}

// IngressCluster is what Ingresses are judged by.
func IngressCluster(get func(Key) Object, holders ingress.Holders) ingress.Cluster {
	return ingress.Cluster{
		Service: func(namespace, name string) *corev1.Service {
			s, _ := get(For[*corev1.Service]().Key(namespace, name)).(*corev1.Service)
			return s
		},
		Secret: func(namespace, name string) *corev1.Secret {
			s, _ := get(For[*corev1.Secret]().Key(namespace, name)).(*corev1.Secret)
			return s
		},
		Holders: holders,
	}
}

func ingressRule() Rule {
	return judged(ingressHealth, Read{Of: networking().WithKind("IngressClass")}, Read{Of: networking().WithKind("Ingress")},
		Read{Of: core().WithKind("Service")}, Read{Of: core().WithKind("Secret")}, Read{core().WithKind("Node"), IngressMoved})
}

// ingressHealth: it is admitted: all of its hosts and paths are its own, what it names is there, and a node serves it. One of another
// controller is left to that.
func ingressHealth(i *networkingv1.Ingress, see Sight) Health {
	known := once(see, "ingresses", func() servedIngresses { return ingressesOf(see) })
	class := known.classes.Of(i)
	if !ingress.Owned(class) {
		return Health{State: Healthy}
	}
	if faults := ingress.Faults(i, IngressCluster(see.Get, known.holders), see.Now()); len(faults) > 0 {
		return Health{State: Failed, Cause: "not admitted: " + ingress.First(faults)}
	}
	if cause := once(see, "ingress of "+class.Name, func() string { return withoutIngress(class, see) }); cause != "" {
		return Health{State: Progressing, Cause: cause}
	}
	return Health{State: Healthy}
}

// servedIngresses are the classes that there are, and who has what of the Ingresses that Lockstep serves.
type servedIngresses struct {
	classes ingress.Classes
	holders ingress.Holders
}

func ingressesOf(see Sight) servedIngresses {
	classes, all := ingress.Classes{}, []*networkingv1.Ingress(nil)
	for o := range see.List(schema.GroupResource{Group: networkingv1.GroupName, Resource: "ingressclasses"}, "") {
		classes[o.GetName()] = o.(*networkingv1.IngressClass)
	}
	for o := range see.List(schema.GroupResource{Group: networkingv1.GroupName, Resource: "ingresses"}, "") {
		if i := o.(*networkingv1.Ingress); i.DeletionTimestamp == nil && classes.Ours(i) {
			all = append(all, i)
		}
	}
	return servedIngresses{classes, ingress.Arrange(all)}
}

// withoutIngress says why no node serves a class; empty: one does.
func withoutIngress(class *networkingv1.IngressClass, see Sight) string {
	why := ""
	for o := range see.List(schema.GroupResource{Resource: "nodes"}, "") {
		n := o.(*corev1.Node)
		if ServesIngress(n, class) {
			return ""
		}
		if c := NodeCondition(n, NodeIngress); c != nil && c.Status == corev1.ConditionFalse && why == "" {
			why = fmt.Sprintf(": node %s: %s", n.Name, c.Message)
		}
	}
	return fmt.Sprintf("no node serves IngressClass %s%s", class.Name, why)
}

// IngressMoved says whether other nodes may serve Ingresses because of a node's change, or at other addresses; either may be nil.
func IngressMoved(old, new Object) bool {
	before, _ := old.(*corev1.Node)
	after, _ := new.(*corev1.Node)
	if before == nil || after == nil {
		return true
	}
	told := func(n *corev1.Node) string {
		if c := NodeCondition(n, NodeIngress); c != nil {
			return string(c.Status) + c.Message
		}
		return ""
	}
	return told(before) != told(after) || NodeReady(before) != NodeReady(after) || !maps.Equal(before.Labels, after.Labels) ||
		!slices.Equal(before.Status.Addresses, after.Status.Addresses) ||
		(before.DeletionTimestamp == nil) != (after.DeletionTimestamp == nil)
}
