package scheduler

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// The reasons, as kube-scheduler words them.
const (
	reasonUnschedulable = "node(s) were unschedulable"
	reasonAffinity      = "node(s) didn't match Pod's node affinity/selector"
	reasonPorts         = "node(s) didn't have free ports for the requested pod ports"
	reasonTooManyPods   = "Too many pods"
	noNodes             = "no nodes available to schedule pods"
)

// demand is what a pod asks of a node, compiled once for all pods alike.
type demand struct {
	load        load
	tolerations []corev1.Toleration
	required    nodeaffinity.RequiredNodeAffinity
	preferred   *nodeaffinity.PreferredSchedulingTerms // nil for none
}

func newDemand(p *corev1.Pod) (*demand, error) {
	d := &demand{load: loadOf(p), tolerations: p.Spec.Tolerations, required: nodeaffinity.GetRequiredNodeAffinity(p)}
	if a := p.Spec.Affinity; a != nil && a.NodeAffinity != nil && len(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) > 0 {
		terms, err := nodeaffinity.NewPreferredSchedulingTerms(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
		if err != nil {
			return nil, fmt.Errorf("cannot read the preferred node affinity: %w", err)
		}
		d.preferred = terms
	}
	return d, nil
}

// refusals returns why a node cannot take the pod, in kube-scheduler's words and order: the first predicate that refuses
// ends the search, and only missing resources have several reasons. Nil: the node can.
func (d *demand) refusals(n *nodeInfo) []string {
	if n.node.Spec.Unschedulable && !d.tolerates(&corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}) {
		return []string{reasonUnschedulable}
	}
	for i := range n.taints {
		if t := &n.taints[i]; t.Effect != corev1.TaintEffectPreferNoSchedule && !d.tolerates(t) {
			return []string{fmt.Sprintf("node(s) had untolerated taint {%s: %s}", t.Key, t.Value)}
		}
	}
	if ok, err := d.required.Match(n.node); err != nil || !ok {
		return []string{reasonAffinity}
	}
	if d.portsTaken(n) {
		return []string{reasonPorts}
	}
	return d.missing(n)
}

func (d *demand) tolerates(t *corev1.Taint) bool {
	for i := range d.tolerations {
		if d.tolerations[i].ToleratesTaint(klog.Logger{}, t, false) {
			return true
		}
	}
	return false
}

func (d *demand) portsTaken(n *nodeInfo) bool {
	if len(d.load.ports) == 0 || len(n.ports) == 0 {
		return false
	}
	for _, want := range d.load.ports {
		for have := range n.ports {
			if have.port == want.port && have.protocol == want.protocol && (have.ip == want.ip || have.ip == "" || want.ip == "") {
				return true
			}
		}
	}
	return false
}

func (d *demand) missing(n *nodeInfo) []string {
	var out []string
	if n.pods+1 > n.maxPods {
		out = append(out, reasonTooManyPods)
	}
	want := &d.load.requests
	if want.none() {
		return out
	}
	check := func(name corev1.ResourceName, want, have, used int64) {
		if want > 0 && want > have-used {
			out = append(out, "Insufficient "+string(name))
		}
	}
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

// fingerprint returns a text that is equal for pods that any node takes or refuses alike and that are spread together.
func fingerprint(p *corev1.Pod, l load) string {
	spec := corev1.PodSpec{NodeSelector: p.Spec.NodeSelector, Tolerations: p.Spec.Tolerations}
	if p.Spec.Affinity != nil {
		spec.Affinity = &corev1.Affinity{NodeAffinity: p.Spec.Affinity.NodeAffinity}
	}
	data, err := spec.Marshal()
	if err != nil {
		return string(p.UID) // alike to nobody
	}
	var scalar []string
	for name, v := range l.requests.scalar {
		scalar = append(scalar, fmt.Sprintf("%s=%d", name, v))
	}
	slices.Sort(scalar)
	return fmt.Sprintf("%s %d %d %d %d %d %v %v %s", l.owner, l.requests.cpu, l.requests.memory, l.requests.storage,
		l.cpu, l.memory, scalar, l.ports, data)
}
