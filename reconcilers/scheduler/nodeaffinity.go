package scheduler

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// requiredNodes refuses nodes that the pod's node selector and required node affinity leave out.
func requiredNodes() predicate {
	return predicate{
		name: "NodeAffinity", scope: still, wakes: NodeLabels, reads: nodeAffinity,
		concerns: func(d *demand) bool { return d.selective },
		check:    (*demand).selects, words: always("node(s) didn't match Pod's node affinity/selector"),
	}
}

// enforcedNodes refuses nodes that a profile leaves out for all of its pods.
func enforcedNodes(required *nodeaffinity.NodeSelector) predicate {
	return predicate{
		name: "NodeAffinity", scope: still, wakes: NodeLabels,
		check: func(_ *demand, n *nodeInfo, _ *cluster) bool { return required.Match(n.node) },
		words: always("node(s) didn't match scheduler-enforced node affinity"),
	}
}

// preferredNodes prefers nodes by the weights of the pod's preferred node affinity, and of a profile's; nil: there is none.
func preferredNodes(added *nodeaffinity.PreferredSchedulingTerms) score {
	return score{
		name: "NodeAffinity", weight: 2, scope: still, reads: nodeAffinity,
		of: func(d *demand, n *nodeInfo, c *cluster) (sum int64) {
			if added != nil {
				sum = added.Score(n.node)
			}
			if d.preferred != nil {
				sum += d.preference(n, c)
			}
			return sum
		},
		concerns: func(d *demand) bool { return d.preferred != nil || added != nil },
		scale:    func(weight, most int64) int64 { return best * weight / most },
	}
}

func nodeAffinity(of, into *corev1.Pod) {
	into.Spec.NodeSelector = of.Spec.NodeSelector
	if of.Spec.Affinity == nil {
		return
	}
	if into.Spec.Affinity == nil {
		into.Spec.Affinity = &corev1.Affinity{}
	}
	into.Spec.Affinity.NodeAffinity = of.Spec.Affinity.NodeAffinity
}

// readNodeAffinity compiles what the pod asks of nodes' labels and names.
func (d *demand) readNodeAffinity(p *corev1.Pod) error {
	d.required = nodeaffinity.GetRequiredNodeAffinity(p)
	a := p.Spec.Affinity
	d.selective = len(p.Spec.NodeSelector) > 0 ||
		a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil
	if a == nil || a.NodeAffinity == nil || len(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) == 0 {
		return nil
	}
	terms, err := nodeaffinity.NewPreferredSchedulingTerms(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	if err != nil {
		return fmt.Errorf("cannot read the preferred node affinity: %w", err)
	}
	d.preferred = terms
	return nil
}

func (d *demand) selects(n *nodeInfo, _ *cluster) bool {
	ok, err := d.required.Match(n.node)
	return err == nil && ok
}

// preference is the weight of the preferences that the node satisfies.
func (d *demand) preference(n *nodeInfo, _ *cluster) int64 { return d.preferred.Score(n.node) }
