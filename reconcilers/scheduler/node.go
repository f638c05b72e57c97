package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
)

// load is what one pod takes of its node.
type load struct {
	requests    amounts
	cpu, memory int64 // as scoring sees them
	ports       []hostPort
	mounts      []mount
	group       *group
}

// equal says whether two loads take the same, of whatever groups.
func (l *load) equal(o *load) bool {
	return l.requests.equal(o.requests) && l.cpu == o.cpu && l.memory == o.memory && slices.Equal(l.ports, o.ports) &&
		slices.Equal(l.mounts, o.mounts)
}

// appendTo appends a text that is equal for equal loads, but for their groups, and for no others.
func (l *load) appendTo(b []byte) []byte {
	for _, n := range [...]int64{l.requests.cpu, l.requests.memory, l.requests.storage, l.cpu, l.memory} {
		b = strconv.AppendInt(append(b, ' '), n, 10)
	}
	for _, name := range slices.Sorted(maps.Keys(l.requests.scalar)) {
		b = fmt.Appendf(b, " %s=%d", name, l.requests.scalar[name])
	}
	for _, p := range l.ports {
		b = fmt.Appendf(b, " %s %s:%d", p.protocol, p.ip, p.port)
	}
	for _, m := range l.mounts {
		b = fmt.Appendf(b, " %s/%s %s", m.claim.Namespace, m.claim.Name, m.uid)
	}
	return append(b, ' ')
}

// nodeInfo is a node with the sum of the loads bound to it.
type nodeInfo struct {
	name        string
	at          int          // its place among the nodes by name; meaningless while only pods name it
	node        *corev1.Node // nil while only pods name it
	allocatable amounts
	maxPods     int64
	taints      []corev1.Taint // the node's, and what its conditions amount to
	cordoned    bool           // unschedulable, by its spec

	there       []*placed // bound to it; copies share it
	pods        int64
	requested   amounts
	cpu, memory int64
	ports       map[hostPort]int
	mounts      map[kinds.Key]int // how many pods mount a claim
}

func (n *nodeInfo) clone() *nodeInfo {
	c := *n
	c.requested = n.requested.clone()
	c.ports, c.mounts = maps.Clone(n.ports), maps.Clone(n.mounts)
	return &c
}

// take adds a load, or with sign -1 takes it away.
func (n *nodeInfo) take(l load, sign int64) {
	n.pods += sign
	n.requested.add(l.requests, sign)
	n.cpu += sign * l.cpu
	n.memory += sign * l.memory
	for _, p := range l.ports {
		n.ports = count(n.ports, p, sign)
	}
	for _, m := range l.mounts {
		n.mounts = count(n.mounts, m.claim, sign)
	}
}

func count[K comparable](m map[K]int, k K, sign int64) map[K]int {
	if m == nil {
		m = map[K]int{}
	}
	if m[k] += int(sign); m[k] == 0 {
		delete(m, k)
	}
	return m
}

// loadOf is what a pod takes, but for its group.
func loadOf(p *corev1.Pod) load {
	l := load{ports: hostPorts(p), mounts: mountsOf(p)}
	var plain bool
	if l.requests, l.cpu, l.memory, plain = plainly(p); !plain {
		l.requests = requestsOf(p)
		l.cpu, l.memory = weightOf(p)
	}
	return l
}

// effectiveTaints returns a node's taints, with the one Kubernetes' node lifecycle gives a node that is not ready.
func effectiveTaints(n *corev1.Node) []corev1.Taint {
	key := corev1.TaintNodeNotReady
	if c := kinds.NodeCondition(n, corev1.NodeReady); c != nil {
		switch c.Status {
		case corev1.ConditionTrue:
			return n.Spec.Taints
		case corev1.ConditionUnknown:
			key = corev1.TaintNodeUnreachable
		}
	}
	for _, t := range n.Spec.Taints {
		if t.Key == key && t.Effect != corev1.TaintEffectPreferNoSchedule {
			return n.Spec.Taints
		}
	}
	return append(slices.Clone(n.Spec.Taints), corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule})
}
