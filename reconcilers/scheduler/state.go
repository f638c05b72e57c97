package scheduler

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/kinds"
	"lockstep/store/view"
)

func presumed() corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewMilliQuantity(presumedCPU, resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(presumedMemory, resource.BinarySI),
	}
}

// hostPort is a port of a node; an empty ip is any address.
type hostPort struct {
	protocol corev1.Protocol
	ip       string
	port     int32
}

// load is what one pod takes of its node.
type load struct {
	requests    amounts
	cpu, memory int64 // as scoring sees them
	ports       []hostPort
	owner       types.UID // of its controller, or empty
}

// nodeInfo is a node with the sum of the loads bound to it.
type nodeInfo struct {
	name        string
	node        *corev1.Node // nil while only pods name it
	allocatable amounts
	maxPods     int64
	taints      []corev1.Taint // the node's, and what its conditions amount to

	pods        int64
	requested   amounts
	cpu, memory int64
	ports       map[hostPort]int
	owners      map[types.UID]int
}

func (n *nodeInfo) clone() *nodeInfo {
	c := *n
	c.requested = n.requested.clone()
	c.ports, c.owners = maps.Clone(n.ports), maps.Clone(n.owners)
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
	if l.owner != "" {
		n.owners = count(n.owners, l.owner, sign)
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

// placed is where a pod counts, and with what.
type placed struct {
	node string
	load load
}

// State is what deciding needs of a view. It is folded from changes: from any order of steps that ends in a view, it
// equals the State of that view.
type State struct {
	infos   map[string]*nodeInfo
	names   []string             // of the infos that have a node, sorted
	placed  map[kinds.Key]placed // pods that take something of a node
	pending map[kinds.Key]*corev1.Pod
}

// NewState returns the state of a view.
func NewState(v *view.View) *State {
	s := &State{infos: map[string]*nodeInfo{}, placed: map[kinds.Key]placed{}, pending: map[kinds.Key]*corev1.Pod{}}
	for n := range view.List[*corev1.Node](v, "") {
		s.Fold(view.Change{Key: kinds.KeyOf(n), New: n})
	}
	for p := range view.List[*corev1.Pod](v, "") {
		s.Fold(view.Change{Key: kinds.KeyOf(p), New: p})
	}
	return s
}

// Effect is what a change means for the pods that wait.
type Effect int

// The effects.
const (
	Nothing Effect = iota
	Waits          // the changed pod itself waits
	Frees          // some node may take more or other pods than before
)

// Fold takes one change over.
func (s *State) Fold(c view.Change) Effect {
	switch {
	case c.Key.Group == "" && c.Key.Resource == "nodes":
		n, _ := c.New.(*corev1.Node)
		return s.setNode(c.Key.Name, n)
	case c.Key.Group == "" && c.Key.Resource == "pods":
		p, _ := c.New.(*corev1.Pod)
		return s.setPod(c.Key, p)
	}
	return Nothing
}

func (s *State) setNode(name string, node *corev1.Node) Effect {
	at, listed := slices.BinarySearch(s.names, name)
	if node == nil {
		if !listed {
			return Nothing
		}
		s.names = slices.Delete(s.names, at, at+1)
		info := s.infos[name]
		info.node, info.allocatable, info.maxPods, info.taints = nil, amounts{}, 0, nil
		s.dropIdle(info)
		return Frees // the verdicts count one node less
	}
	if !listed {
		s.names = slices.Insert(s.names, at, name)
	}
	info := s.info(name)
	effect := Nothing
	if info.node == nil || nodeMatters(info.node, node) {
		effect = Frees
	}
	info.node, info.taints = node, effectiveTaints(node)
	info.allocatable, info.maxPods = amountsOf(node.Status.Allocatable)
	return effect
}

func (s *State) setPod(key kinds.Key, pod *corev1.Pod) Effect {
	effect := Nothing
	if old, ok := s.placed[key]; ok {
		info := s.info(old.node)
		info.take(old.load, -1)
		s.dropIdle(info)
		delete(s.placed, key)
		effect = Frees
	}
	delete(s.pending, key)
	switch {
	case pod == nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
	case pod.Spec.NodeName != "":
		l := loadOf(pod)
		s.placed[key] = placed{node: pod.Spec.NodeName, load: l}
		s.info(pod.Spec.NodeName).take(l, 1)
		return Nothing // what stays on its node frees nothing
	case waits(pod):
		s.pending[key] = pod
		return Waits
	}
	return effect
}

// waits says whether an unbound pod is to be scheduled by us.
func waits(p *corev1.Pod) bool {
	ours := p.Spec.SchedulerName == "" || p.Spec.SchedulerName == corev1.DefaultSchedulerName
	return ours && p.DeletionTimestamp == nil && len(p.Spec.SchedulingGates) == 0
}

func (s *State) info(name string) *nodeInfo {
	info := s.infos[name]
	if info == nil {
		info = &nodeInfo{name: name}
		s.infos[name] = info
	}
	return info
}

func (s *State) dropIdle(info *nodeInfo) {
	if info.node == nil && info.pods == 0 {
		delete(s.infos, info.name)
	}
}

// Pending returns the pods that wait, in the order to decide them: priority, age, name.
func (s *State) Pending() []*corev1.Pod {
	out := slices.Collect(maps.Values(s.pending))
	slices.SortFunc(out, func(a, b *corev1.Pod) int {
		if pa, pb := priority(a), priority(b); pa != pb {
			return int(pb) - int(pa)
		}
		if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
			return c
		}
		if c := strings.Compare(a.Namespace, b.Namespace); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return out
}

func priority(p *corev1.Pod) int32 {
	if p.Spec.Priority == nil {
		return 0
	}
	return *p.Spec.Priority
}

func loadOf(p *corev1.Pod) load {
	l := load{requests: requestsOf(p), ports: hostPorts(p)}
	l.cpu, l.memory = weightOf(p)
	if ref := metav1.GetControllerOfNoCopy(p); ref != nil {
		l.owner = ref.UID
	}
	return l
}

// hostPorts returns the ports of a pod's containers, and of its init containers that keep running beside them.
func hostPorts(p *corev1.Pod) []hostPort {
	var out []hostPort
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			out = appendPorts(out, c)
		}
	}
	for i := range p.Spec.Containers {
		out = appendPorts(out, &p.Spec.Containers[i])
	}
	return out
}

func appendPorts(out []hostPort, c *corev1.Container) []hostPort {
	for _, port := range c.Ports {
		if port.HostPort > 0 {
			out = append(out, newHostPort(port))
		}
	}
	return out
}

func newHostPort(p corev1.ContainerPort) hostPort {
	out := hostPort{protocol: p.Protocol, ip: p.HostIP, port: p.HostPort}
	if out.protocol == "" {
		out.protocol = corev1.ProtocolTCP
	}
	if out.ip == "0.0.0.0" || out.ip == "::" {
		out.ip = ""
	}
	return out
}

// nodeMatters says whether two states of a node differ in what a predicate or score reads.
func nodeMatters(a, b *corev1.Node) bool {
	return a.Spec.Unschedulable != b.Spec.Unschedulable || !slices.EqualFunc(effectiveTaints(a), effectiveTaints(b), sameTaint) ||
		!maps.Equal(a.Labels, b.Labels) || !sameQuantities(a.Status.Allocatable, b.Status.Allocatable)
}

func sameTaint(a, b corev1.Taint) bool { return a.MatchTaint(&b) && a.Value == b.Value }

func sameQuantities(a, b corev1.ResourceList) bool {
	return maps.EqualFunc(a, b, func(x, y resource.Quantity) bool { return x.Cmp(y) == 0 })
}

// effectiveTaints returns a node's taints, with the one Kubernetes' node lifecycle gives a node that is not ready.
func effectiveTaints(n *corev1.Node) []corev1.Taint {
	key := corev1.TaintNodeNotReady
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			switch c.Status {
			case corev1.ConditionTrue:
				return n.Spec.Taints
			case corev1.ConditionUnknown:
				key = corev1.TaintNodeUnreachable
			}
		}
	}
	for _, t := range n.Spec.Taints {
		if t.Key == key && t.Effect != corev1.TaintEffectPreferNoSchedule {
			return n.Spec.Taints
		}
	}
	return append(slices.Clone(n.Spec.Taints), corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule})
}
