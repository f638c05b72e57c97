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
