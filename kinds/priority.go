package kinds

import (
	corev1 "k8s.io/api/core/v1"
	helpers "k8s.io/component-helpers/scheduling/corev1"
)

// LowestCritical is the lowest priority of the system's classes.
const LowestCritical = 2_000_000_000

// Critical says that a cluster or a node does not work without the pod: it has the priority of one of the system's classes.
func Critical(p *corev1.Pod) bool {
	return helpers.PodPriority(p) >= LowestCritical
}
