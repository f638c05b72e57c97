package scheduler

import (
	corev1 "k8s.io/api/core/v1"
)

// nodeUnschedulable refuses nodes that are cordoned.
func nodeUnschedulable() predicate {
	return predicate{
		name: "NodeUnschedulable", scope: still, wakes: NodeUnschedulable, reads: tolerations,
		check: (*demand).schedulable, words: always("node(s) were unschedulable"),
	}
}

func (d *demand) schedulable(n *nodeInfo, _ *cluster) bool {
	return !n.cordoned || d.tolerates(&corev1.Taint{
		Key:    corev1.TaintNodeUnschedulable,
		Effect: corev1.TaintEffectNoSchedule,
	})
}
