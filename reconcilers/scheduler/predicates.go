package scheduler

import (
	"fmt"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// noNodes is the refusal where there is no node to ask.
const noNodes = "no nodes available to schedule pods"

func predicates() []predicate {
	return []predicate{
		{
			name: "NodeUnschedulable", scope: still, wakes: NodeUnschedulable, reads: tolerations,
			check: (*demand).schedulable, words: always("node(s) were unschedulable"),
		},
		{
			name: "TaintToleration", scope: still, wakes: NodeTaints, reads: tolerations,
			check: func(d *demand, n *nodeInfo, _ *cluster) bool { return d.untolerated(n) == nil },
			words: func(d *demand, n *nodeInfo, _ *cluster) []string {
				t := d.untolerated(n)
				return []string{fmt.Sprintf("node(s) had untolerated taint {%s: %s}", t.Key, t.Value)}
			},
		},
		{
			name: "NodeAffinity", scope: still, wakes: NodeLabels, reads: nodeAffinity,
			concerns: func(d *demand) bool { return d.selective },
			check:    (*demand).selects, words: always("node(s) didn't match Pod's node affinity/selector"),
		},
		{
			name: "NodePorts", scope: itself, wakes: PodGone, concerns: func(d *demand) bool { return len(d.load.ports) > 0 },
			check: (*demand).portsFree, words: always("node(s) didn't have free ports for the requested pod ports"),
		},
		{
			name: "NodeResourcesFit", scope: itself, wakes: PodGone | NodeAllocatable,
			check: (*demand).fits, words: (*demand).missing,
		},
	}
}

// always words every refusal alike.
func always(text string) func(*demand, *nodeInfo, *cluster) []string {
	return func(*demand, *nodeInfo, *cluster) []string { return []string{text} }
}

func tolerations(of, into *corev1.Pod) { into.Spec.Tolerations = of.Spec.Tolerations }

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

func (d *demand) schedulable(n *nodeInfo, _ *cluster) bool {
	return !n.node.Spec.Unschedulable || d.tolerates(&corev1.Taint{
		Key:    corev1.TaintNodeUnschedulable,
		Effect: corev1.TaintEffectNoSchedule,
	})
}

// untolerated returns the first taint that keeps the pod away, or nil.
func (d *demand) untolerated(n *nodeInfo) *corev1.Taint {
	for i := range n.taints {
		if t := &n.taints[i]; t.Effect != corev1.TaintEffectPreferNoSchedule && !d.tolerates(t) {
			return t
		}
	}
	return nil
}

func (d *demand) selects(n *nodeInfo, _ *cluster) bool {
	ok, err := d.required.Match(n.node)
	return err == nil && ok
}

func (d *demand) portsFree(n *nodeInfo, _ *cluster) bool {
	for _, want := range d.load.ports {
		for have := range n.ports {
			if have.port == want.port && have.protocol == want.protocol && (have.ip == want.ip || have.ip == "" || want.ip == "") {
				return false
			}
		}
	}
	return true
}

func (d *demand) fits(n *nodeInfo, _ *cluster) bool {
	want := &d.load.requests
	enough := func(want, have, used int64) bool { return want <= 0 || want <= have-used }
	if n.pods+1 > n.maxPods || !enough(want.cpu, n.allocatable.cpu, n.requested.cpu) ||
		!enough(want.memory, n.allocatable.memory, n.requested.memory) ||
		!enough(want.storage, n.allocatable.storage, n.requested.storage) {
		return false
	}
	for name, v := range want.scalar {
		if !enough(v, n.allocatable.scalar[name], n.requested.scalar[name]) {
			return false
		}
	}
	return true
}

// missing words why the pod does not fit, one reason a resource.
func (d *demand) missing(n *nodeInfo, _ *cluster) []string {
	var out []string
	if n.pods+1 > n.maxPods {
		out = append(out, "Too many pods")
	}
	check := func(name corev1.ResourceName, want, have, used int64) {
		if want > 0 && want > have-used {
			out = append(out, "Insufficient "+string(name))
		}
	}
	want := &d.load.requests
	check(corev1.ResourceCPU, want.cpu, n.allocatable.cpu, n.requested.cpu)
	check(corev1.ResourceMemory, want.memory, n.allocatable.memory, n.requested.memory)
	check(corev1.ResourceEphemeralStorage, want.storage, n.allocatable.storage, n.requested.storage)
	for name, v := range want.scalar {
		check(name, v, n.allocatable.scalar[name], n.requested.scalar[name])
	}
	return out
}

// message counts reasons over all nodes: "0/3 nodes are available: 1 Too many pods, 2 Insufficient cpu."
func message(nodes int, reasons map[string]int) string {
	if nodes == 0 {
		return noNodes
	}
	lines := make([]string, 0, len(reasons))
	for reason, n := range reasons {
		lines = append(lines, fmt.Sprintf("%d %s", n, reason))
	}
	sort.Strings(lines)
	return fmt.Sprintf("0/%d nodes are available: %s.", nodes, strings.Join(lines, ", "))
}
