package scheduler

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
)

// untoleratedTaints refuses nodes whose taints keep the pod away.
func untoleratedTaints() predicate {
	return predicate{
		name: "TaintToleration", scope: still, wakes: NodeTaints, reads: tolerations,
		check: func(d *demand, n *nodeInfo, _ *cluster) bool { return d.untolerated(n) == nil },
		words: func(d *demand, n *nodeInfo, _ *cluster) []string {
			t := d.untolerated(n)
			return []string{fmt.Sprintf("node(s) had untolerated taint {%s: %s}", t.Key, t.Value)}
		},
	}
}

// fewestTaints prefers nodes with fewer taints that the pod had better avoid.
func fewestTaints() score {
	return score{
		name: "TaintToleration", weight: 3, scope: still, reads: tolerations, of: (*demand).disliked,
		scale: func(taints, most int64) int64 { return best - best*taints/most }, nothing: best,
	}
}

func tolerations(of, into *corev1.Pod) { into.Spec.Tolerations = of.Spec.Tolerations }

func (d *demand) tolerates(t *corev1.Taint) bool {
	for i := range d.tolerations {
		if d.tolerations[i].ToleratesTaint(klog.Logger{}, t, false) {
			return true
		}
	}
	return false
}

// toleratesAll says whether none of the taints keeps the pod away.
func (d *demand) toleratesAll(taints []corev1.Taint) bool { return d.untoleratedOf(taints) == nil }

// untolerated returns the first taint that keeps the pod away, or nil.
func (d *demand) untolerated(n *nodeInfo) *corev1.Taint { return d.untoleratedOf(n.taints) }

func (d *demand) untoleratedOf(taints []corev1.Taint) *corev1.Taint {
	for i := range taints {
		if t := &taints[i]; t.Effect != corev1.TaintEffectPreferNoSchedule && !d.tolerates(t) {
			return t
		}
	}
	return nil
}

// disliked counts the taints of a node that the pod had better avoid.
func (d *demand) disliked(n *nodeInfo, _ *cluster) (taints int64) {
	for i := range n.taints {
		if t := &n.taints[i]; t.Effect == corev1.TaintEffectPreferNoSchedule && !d.tolerates(t) {
			taints++
		}
	}
	return taints
}
