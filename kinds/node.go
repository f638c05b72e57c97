package kinds

import corev1 "k8s.io/api/core/v1"

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

// NodeReady says that the node's Ready condition is true.
func NodeReady(n *corev1.Node) bool {
	c := NodeCondition(n, corev1.NodeReady)
	return c != nil && c.Status == corev1.ConditionTrue
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
