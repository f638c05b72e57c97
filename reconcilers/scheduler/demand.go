package scheduler

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// demand is what a pod asks of a node, compiled once for all pods alike: each row reads what it needs.
type demand struct {
	load        load
	tolerations []corev1.Toleration
	selective   bool // required refuses some nodes, perhaps
	required    nodeaffinity.RequiredNodeAffinity
	preferred   *nodeaffinity.PreferredSchedulingTerms // nil for none
}

// newDemand fails where what the pod asks cannot be understood; the error is its refusal.
func newDemand(p *corev1.Pod, l load) (*demand, error) {
	d := &demand{load: l, tolerations: p.Spec.Tolerations}
	if err := d.readNodeAffinity(p); err != nil {
		return nil, err
	}
	return d, nil
}
