package scheduler

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// demand is what a pod asks of a node, compiled once for all pods alike.
type demand struct {
	load        load
	tolerations []corev1.Toleration
	selective   bool // required refuses some nodes, perhaps
	required    nodeaffinity.RequiredNodeAffinity
	preferred   *nodeaffinity.PreferredSchedulingTerms // nil for none
}

func newDemand(p *corev1.Pod, l load) (*demand, error) {
	d := &demand{load: l, tolerations: p.Spec.Tolerations, required: nodeaffinity.GetRequiredNodeAffinity(p)}
	a := p.Spec.Affinity
	d.selective = len(p.Spec.NodeSelector) > 0 ||
		a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil
	if a != nil && a.NodeAffinity != nil && len(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) > 0 {
		terms, err := nodeaffinity.NewPreferredSchedulingTerms(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
		if err != nil {
			return nil, fmt.Errorf("cannot read the preferred node affinity: %w", err)
		}
		d.preferred = terms
	}
	return d, nil
}

func (d *demand) tolerates(t *corev1.Taint) bool {
	for i := range d.tolerations {
		if d.tolerations[i].ToleratesTaint(klog.Logger{}, t, false) {
			return true
		}
	}
	return false
}
