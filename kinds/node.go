package kinds

import corev1 "k8s.io/api/core/v1"

// NodeServiceRules is the condition by which a node tells whether its kernel has the rules of all services. A node that
// says nothing of it has them. It is no condition of Kubernetes: there nobody is told.
const NodeServiceRules corev1.NodeConditionType = "ServiceRules"
