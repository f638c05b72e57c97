package scheduler

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/store/view"
)

// placed is where a pod counts, and with what.
type placed struct {
	node string
	load load
}

// State is what deciding needs of a view. It is folded from changes: from any order of steps that ends in a view, it
// equals the State of that view.
type State struct {
	table   *table
	infos   map[string]*nodeInfo
	names   []string             // of the infos that have a node, sorted
	placed  map[kinds.Key]placed // pods that take something of a node
	pending map[kinds.Key]*corev1.Pod
	objects map[kinds.Key]kinds.Object // of the kinds that rows look at
}

// NewState returns the state of a view.
func NewState(v *view.View) *State { return newState(v, rows()) }

func newState(v *view.View, t *table) *State {
	s := &State{
		table: t, infos: map[string]*nodeInfo{}, placed: map[kinds.Key]placed{}, pending: map[kinds.Key]*corev1.Pod{},
		objects: map[kinds.Key]kinds.Object{},
	}
	for n := range view.List[*corev1.Node](v, "") {
		s.Fold(view.Change{Key: kinds.KeyOf(n), New: n})
	}
	for p := range view.List[*corev1.Pod](v, "") {
		s.Fold(view.Change{Key: kinds.KeyOf(p), New: p})
	}
	for _, k := range kinds.All {
		if t.looksAt(k.GroupResource()) {
			for o := range v.List(k.GroupResource(), "") {
				s.objects[kinds.KeyOf(o)] = o
			}
		}
	}
	return s
}

// Fold takes one change over, and says what it means for pods that wait.
func (s *State) Fold(c view.Change) Changes {
	switch {
	case c.Key.Group == "" && c.Key.Resource == "nodes":
		n, _ := c.New.(*corev1.Node)
		return s.setNode(c.Key.Name, n)
	case c.Key.Group == "" && c.Key.Resource == "pods":
		p, _ := c.New.(*corev1.Pod)
		return s.setPod(c.Key, p)
	case !s.table.looksAt(c.Key.GroupResource()):
		return 0
	case c.New == nil:
		delete(s.objects, c.Key)
	default:
		s.objects[c.Key] = c.New
	}
	return ObjectChanged
}

func (s *State) setNode(name string, node *corev1.Node) Changes {
	at, listed := slices.BinarySearch(s.names, name)
	if node == nil {
		if !listed {
			return 0
		}
		s.names = slices.Delete(s.names, at, at+1)
		info := s.infos[name]
		info.node, info.allocatable, info.maxPods, info.taints = nil, amounts{}, 0, nil
		s.dropIdle(info)
		return NodeListed
	}
	if !listed {
		s.names = slices.Insert(s.names, at, name)
	}
	info, taints := s.info(name), effectiveTaints(node)
	changes := NodeListed
	if listed {
		changes = nodeChanges(info, node, taints)
	}
	info.node, info.taints = node, taints
	info.allocatable, info.maxPods = amountsOf(node.Status.Allocatable)
	return changes
}

// nodeChanges says how a node's next state differs in what rows read.
func nodeChanges(old *nodeInfo, node *corev1.Node, taints []corev1.Taint) (c Changes) {
	if old.node.Spec.Unschedulable != node.Spec.Unschedulable {
		c |= NodeUnschedulable
	}
	if !slices.EqualFunc(old.taints, taints, func(a, b corev1.Taint) bool { return a.MatchTaint(&b) && a.Value == b.Value }) {
		c |= NodeTaints
	}
	if !maps.Equal(old.node.Labels, node.Labels) {
		c |= NodeLabels
	}
	same := func(a, b resource.Quantity) bool { return a.Cmp(b) == 0 }
	if !maps.EqualFunc(old.node.Status.Allocatable, node.Status.Allocatable, same) {
		c |= NodeAllocatable
	}
	return c
}

func (s *State) setPod(key kinds.Key, pod *corev1.Pod) (c Changes) {
	old, counted := s.placed[key]
	if counted {
		info := s.info(old.node)
		info.take(old.load, -1)
		s.dropIdle(info)
		delete(s.placed, key)
		c = PodGone
	}
	delete(s.pending, key)
	switch {
	case pod == nil || podstatus.Finished(&pod.Status):
	case pod.Spec.NodeName != "":
		next := placed{node: pod.Spec.NodeName, load: loadOf(pod)}
		s.placed[key] = next
		s.info(next.node).take(next.load, 1)
		if counted && next.node == old.node && next.load.equal(&old.load) {
			return 0
		}
		c |= PodPlaced
	case waits(pod):
		s.pending[key] = pod
		c |= PodWaits
	}
	return c
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

// Pending returns the pods that wait and are to be decided, in the order to decide them: priority, age, name.
func (s *State) Pending(decide func(kinds.Key) bool) []*corev1.Pod {
	var out []*corev1.Pod
	for key, p := range s.pending {
		if decide(key) {
			out = append(out, p)
		}
	}
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
