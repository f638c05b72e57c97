package kinds

import (
	"cmp"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// NodeServiceRules is the condition by which a node tells whether its kernel has the rules of all services. A node that
// says nothing of it has them. It is no condition of Kubernetes: there nobody is told.
const NodeServiceRules corev1.NodeConditionType = "ServiceRules"

// NodeOf is the node that a pod is bound to; empty for one that is bound to none, and for whatever is no pod.
func NodeOf(o Object) string {
	if p, ok := o.(*corev1.Pod); ok && p != nil {
		return p.Spec.NodeName
	}
	return ""
}

// RootCA is the ConfigMap with the API's authority that every namespace has.
const RootCA = "kube-root-ca.crt"

// AccountOf is the name of a pod's service account.
func AccountOf(p *corev1.Pod) string { return cmp.Or(p.Spec.ServiceAccountName, "default") }

// NodeReady says that the node's Ready condition is true.
func NodeReady(n *corev1.Node) bool {
	c := NodeCondition(n, corev1.NodeReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// NodeSilent says that a node was heard of, and is not any more: its Ready condition is Unknown.
func NodeSilent(n *corev1.Node) bool {
	c := NodeCondition(n, corev1.NodeReady)
	return c != nil && c.Status == corev1.ConditionUnknown
}

// NodeCondition returns the node's condition of that type, or nil. It is the node's own.
func NodeCondition(n *corev1.Node, t corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range n.Status.Conditions {
		if n.Status.Conditions[i].Type == t {
			return &n.Status.Conditions[i]
		}
	}
	return nil
}

// withoutRules says which nodes tell that they cannot write the rules of services; empty: none does. Any node may be where
// a service is asked from. Those that are silent, or on their way out, are left to whoever judges nodes.
func withoutRules(see Sight) string {
	first, message, more := "", "", 0
	for o := range see.List(schema.GroupResource{Resource: "nodes"}, "") {
		told, lacks := lacksRules(o.(*corev1.Node))
		switch {
		case !lacks:
		case first == "":
			first, message = o.GetName(), told
		default:
			more++
		}
	}
	switch {
	case first == "":
		return ""
	case more > 0:
		return fmt.Sprintf("no service rules on node %s and %d more: %s", first, more, message)
	}
	return fmt.Sprintf("no service rules on node %s: %s", first, message)
}

// lacksRules says whether a node that is heard of lacks rules, and why.
func lacksRules(n *corev1.Node) (why string, lacks bool) {
	if n == nil || n.DeletionTimestamp != nil {
		return "", false
	}
	if NodeSilent(n) {
		return "", false
	}
	if c := NodeCondition(n, NodeServiceRules); c != nil && c.Status == corev1.ConditionFalse {
		return c.Message, true
	}
	return "", false
}

// rulesChanged says whether services may be judged anew because of a node's change; either may be nil.
func rulesChanged(old, new Object) bool {
	before, _ := old.(*corev1.Node)
	after, _ := new.(*corev1.Node)
	was, lacked := lacksRules(before)
	is, lacks := lacksRules(after)
	return was != is || lacked != lacks
}

// ruled says whether nodes write rules for a service: it has an address of its own.
func ruled(s *corev1.Service) bool {
	return s.Spec.Type != corev1.ServiceTypeExternalName && s.Spec.ClusterIP != "" && s.Spec.ClusterIP != corev1.ClusterIPNone
}
