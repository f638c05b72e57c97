package scheduler

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/store/view"
)

// placed is where a pod counts, and with what.
type placed struct {
	node string
	load load
	pod  *corev1.Pod
}

// State is what deciding needs of a view. It is folded from changes: from any order of steps that ends in a view, it
// equals the State of that view.
type State struct {
	table     *table
	tables    map[string]*table // by the names of profiles
	infos     map[string]*nodeInfo
	names     []string              // of the infos that have a node, sorted
	placed    map[kinds.Key]*placed // pods that take something of a node
	pending   map[kinds.Key]*corev1.Pod
	nominated map[kinds.Key]*corev1.Pod // of those the ones for which room is made on a node
	budgets   map[kinds.Key]*policyv1.PodDisruptionBudget
	objects   map[kinds.Key]kinds.Object // of the kinds that rows look at
	used      map[kinds.Key]int64        // how many of the placed mount a claim
	mounting  map[kinds.Key][]kinds.Key  // the pending by the claims that they mount

	groups   groups                                // of the placed
	services map[string]map[string]*corev1.Service // by namespace and name
	images   map[string]map[*nodeInfo]int64        // the sizes of images by name, and which nodes have them
	text     []byte                                // room for keys
}

// NewState returns the state of a view.
func NewState(v *view.View) *State { return newState(v, rows()) }

func newState(v *view.View, t *table) *State {
	return newStateOf(v, t, map[string]*table{corev1.DefaultSchedulerName: t})
}

// newStateOf returns a state for pods of several profiles. What is looked at is alike for all.
func newStateOf(v *view.View, t *table, tables map[string]*table) *State {
	s := &State{
		table: t, tables: tables, infos: map[string]*nodeInfo{}, placed: map[kinds.Key]*placed{}, pending: map[kinds.Key]*corev1.Pod{},
		nominated: map[kinds.Key]*corev1.Pod{}, budgets: map[kinds.Key]*policyv1.PodDisruptionBudget{},
		objects: map[kinds.Key]kinds.Object{}, groups: newGroups(), services: map[string]map[string]*corev1.Service{},
		images: map[string]map[*nodeInfo]int64{}, used: map[kinds.Key]int64{}, mounting: map[kinds.Key][]kinds.Key{},
	}
	for b := range view.List[*policyv1.PodDisruptionBudget](v, "") {
		s.budgets[kinds.KeyOf(b)] = b
	}
	for n := range view.List[*corev1.Node](v, "") {
		s.Fold(view.Change{Key: kinds.KeyOf(n), New: n})
	}
	for p := range view.List[*corev1.Pod](v, "") {
		s.Fold(view.Change{Key: kinds.KeyOf(p), New: p})
	}
	for o := range view.List[*corev1.Service](v, "") {
		s.setService(kinds.KeyOf(o), o)
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
	case c.Key.Group == "" && c.Key.Resource == "services":
		service, _ := c.New.(*corev1.Service)
		s.setService(c.Key, service)
		return 0
	case c.Key.Group == policyv1.GroupName && c.Key.Resource == "poddisruptionbudgets":
		// They choose between pods to end: no pod waits for them.
		if b, ok := c.New.(*policyv1.PodDisruptionBudget); ok {
			s.budgets[c.Key] = b
		} else {
			delete(s.budgets, c.Key)
		}
		return 0
	case !s.table.looksAt(c.Key.GroupResource()):
		return 0
	}
	changes := objectChanges(s.objects[c.Key], c.New)
	if c.New == nil {
		delete(s.objects, c.Key)
	} else {
		s.objects[c.Key] = c.New
	}
	return changes
}

func (s *State) setNode(name string, node *corev1.Node) Changes {
	at, listed := slices.BinarySearch(s.names, name)
	if node == nil {
		if !listed {
			return 0
		}
		s.names = slices.Delete(s.names, at, at+1)
		s.number(at)
		info := s.infos[name]
		s.setImages(info, info.node.Status.Images, nil)
		info.node, info.allocatable, info.maxPods, info.taints, info.cordoned = nil, amounts{}, 0, nil, false
		s.dropIdle(info)
		return NodeListed
	}
	info, taints := s.info(name), effectiveTaints(node)
	if !listed {
		s.names = slices.Insert(s.names, at, name)
		s.number(at)
	}
	changes := NodeListed
	if listed {
		changes = nodeChanges(info, node, taints)
	}
	var old []corev1.ContainerImage
	if info.node != nil {
		old = info.node.Status.Images
	}
	if !slices.EqualFunc(old, node.Status.Images, sameImage) {
		s.setImages(info, old, node.Status.Images)
	}
	info.node, info.taints, info.cordoned = node, taints, node.Spec.Unschedulable
	info.allocatable, info.maxPods = amountsOf(node.Status.Allocatable)
	return changes
}

// number tells nodes their places, from one on.
func (s *State) number(from int) {
	for at := from; at < len(s.names); at++ {
		s.infos[s.names[at]].at = at
	}
}

func (s *State) setService(key kinds.Key, service *corev1.Service) {
	if service == nil {
		if delete(s.services[key.Namespace], key.Name); len(s.services[key.Namespace]) == 0 {
			delete(s.services, key.Namespace)
		}
		return
	}
	if s.services[key.Namespace] == nil {
		s.services[key.Namespace] = map[string]*corev1.Service{}
	}
	s.services[key.Namespace][key.Name] = service
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
		info.there = slices.DeleteFunc(info.there, func(p *placed) bool { return p == old })
		s.leave(old.load.group, info)
		s.mount(&old.load, -1)
		s.dropIdle(info)
		delete(s.placed, key)
		c = PodGone
	}
	before, reserved := s.pending[key], s.nominated[key]
	if before != nil {
		s.unlist(key, before)
	}
	delete(s.pending, key)
	delete(s.nominated, key)
	if reserved != nil && (pod == nil || cmp.Or(pod.Spec.NodeName, pod.Status.NominatedNodeName) != reserved.Status.NominatedNodeName) {
		c |= PodGone
	}
	switch {
	case pod == nil || podstatus.Finished(&pod.Status):
	case pod.Spec.NodeName != "":
		next := &placed{node: pod.Spec.NodeName, load: loadOf(pod), pod: pod}
		info := s.info(next.node)
		next.load.group = s.join(pod, info)
		s.placed[key] = next
		info.take(next.load, 1)
		info.there = append(info.there, next)
		s.mount(&next.load, 1)
		switch {
		case !counted || next.node != old.node || !next.load.equal(&old.load):
			c |= PodPlaced
		case next.load.group.key == old.load.group.key:
			return 0
		default:
			c = PodRegrouped
		}
	case waits(pod):
		s.pending[key] = pod
		for _, m := range mountsOf(pod) {
			s.mounting[m.claim] = append(s.mounting[m.claim], key)
		}
		if pod.Status.NominatedNodeName != "" {
			s.nominated[key] = pod
		}
		if before == nil || !sameAsk(before, pod) {
			c |= PodWaits
		}
	}
	return c
}

// sameAsk says that a pod which waits asks for what it did before: what its status says is the scheduler's own.
func sameAsk(a, b *corev1.Pod) bool {
	return a.UID == b.UID && maps.Equal(a.Labels, b.Labels) && apiequality.Semantic.DeepEqual(a.Spec, b.Spec)
}

// mount counts a placed pod, or with sign -1 takes it out, among those that mount its claims.
func (s *State) mount(l *load, sign int64) {
	for _, m := range l.mounts {
		if s.used[m.claim] += sign; s.used[m.claim] == 0 {
			delete(s.used, m.claim)
		}
	}
}

// unlist takes a pod out of those that wait and mount its claims.
func (s *State) unlist(key kinds.Key, p *corev1.Pod) {
	for _, m := range mountsOf(p) {
		left := slices.DeleteFunc(s.mounting[m.claim], func(k kinds.Key) bool { return k == key })
		if s.mounting[m.claim] = left; len(left) == 0 {
			delete(s.mounting, m.claim)
		}
	}
}

// join counts a pod in its group, and returns that.
func (s *State) join(p *corev1.Pod, info *nodeInfo) *group {
	s.text = appendGroup(s.text[:0], p)
	g := s.groups.all[string(s.text)]
	if g == nil {
		g, _ = newGroup(string(s.text), p) // what cannot be understood of a pod that is there is asked of nobody
		s.groups.add(g)
	}
	g.nodes[info]++
	return g
}

// leave takes a pod out of its group, which ends with its last.
func (s *State) leave(g *group, info *nodeInfo) {
	if g.nodes[info]--; g.nodes[info] == 0 {
		delete(g.nodes, info)
	}
	if len(g.nodes) == 0 {
		s.groups.remove(g)
	}
}

// waits says whether an unbound pod is to be scheduled. There is no other scheduler: a pod of a profile that nobody declared is told so.
func waits(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && len(p.Spec.SchedulingGates) == 0
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
