// Package scheduler binds pods that wait to the nodes that suit them best.
package scheduler

import (
	"container/heap"
	"fmt"
	"hash/fnv"

	corev1 "k8s.io/api/core/v1"
)

// Binding puts a pod on a node.
type Binding struct {
	Pod    *corev1.Pod
	Node   string
	Reason string
}

// Refusal says why no node takes a pod, in the words of the condition and the event.
type Refusal struct {
	Pod    *corev1.Pod
	Reason string
}

// Plan is what one decision asks for. Both lists are in the order of the pods decided.
type Plan struct {
	Bindings []Binding
	Refusals []Refusal
}

// Decide places pods, in their order, on the nodes of a state, which it does not change. Seed settles ties: equal
// arguments give equal plans.
func Decide(s *State, pods []*corev1.Pod, seed uint64) Plan {
	r := &round{state: s, seed: seed, touched: map[string]*nodeInfo{}, classes: map[string]*class{}}
	demanded := r.classify(pods)
	var plan Plan
	for i, p := range pods {
		c := demanded[i]
		node, refused := r.place(c)
		if node == nil {
			plan.Refusals = append(plan.Refusals, Refusal{Pod: p, Reason: refused})
			continue
		}
		plan.Bindings = append(plan.Bindings, Binding{Pod: p, Node: node.name, Reason: c.why})
	}
	return plan
}

// round is the work of one Decide.
type round struct {
	state   *State
	seed    uint64
	touched map[string]*nodeInfo // copies of the nodes that got pods in this round
	classes map[string]*class
}

// class is the pods of a round that are alike. Its candidates are scored once; a placement changes one node's score, so
// that each further pod costs a step of the heap, not a look at every node.
type class struct {
	demand  *demand
	invalid string // why its pods can never be placed; empty for none
	pods    int    // of it in this round
	next    int    // how many nodes, counted from start, have been looked at
	start   int
	ranked  candidates
	fixed   map[string]int64
	// refused is the verdict on the class once no node is left: in a round nodes only fill, so it stays.
	refused string
	why     string
}

func (r *round) classify(pods []*corev1.Pod) []*class {
	out := make([]*class, len(pods))
	for i, p := range pods {
		key := fingerprint(p, loadOf(p))
		c := r.classes[key]
		if c == nil {
			c = &class{fixed: map[string]int64{}}
			d, err := newDemand(p)
			if err != nil {
				c.invalid = err.Error()
			}
			c.demand = d
			if n := len(r.state.names); n > 0 {
				c.start = int(mix(r.seed, key) % uint64(n))
			}
			r.classes[key] = c
		}
		c.pods++
		out[i] = c
	}
	return out
}

// place takes the best node for one pod of the class, or says why there is none.
func (r *round) place(c *class) (*nodeInfo, string) {
	if c.invalid != "" {
		return nil, c.invalid
	}
	if c.refused != "" {
		return nil, c.refused
	}
	for {
		if c.ranked.Len() == 0 && !r.widen(c) {
			c.refused = r.explain(c)
			return nil, c.refused
		}
		top := &c.ranked[0]
		info := r.current(top.name)
		// Other classes may have filled the node since it was ranked.
		if len(c.demand.refusals(info)) > 0 {
			heap.Pop(&c.ranked)
			continue
		}
		if score := c.fixed[top.name] + c.demand.movingScore(info); score != top.score {
			top.score = score
			heap.Fix(&c.ranked, 0)
			continue
		}
		score := top.score
		mine := r.own(info)
		mine.take(c.demand.load, 1)
		top.score = c.fixed[mine.name] + c.demand.movingScore(mine)
		heap.Fix(&c.ranked, 0)
		c.why = fmt.Sprintf("the best of %d nodes that can take it, score %d", c.ranked.Len(), score)
		return mine, ""
	}
}

// widen ranks more nodes: enough for the class's pods, a sample of many nodes as kube-scheduler takes it. It reports
// whether there is a candidate now.
func (r *round) widen(c *class) bool {
	type raw struct {
		info             *nodeInfo
		taints, affinity int64
	}
	names := r.state.names
	want := max(sample(len(names)), min(len(names), 2*c.pods))
	var found []raw
	var maxTaints, maxAffinity int64
	for ; c.next < len(names) && len(found) < want; c.next++ {
		info := r.current(names[(c.start+c.next)%len(names)])
		if len(c.demand.refusals(info)) > 0 {
			continue
		}
		t, a := c.demand.rawScores(info)
		found = append(found, raw{info, t, a})
		maxTaints, maxAffinity = max(maxTaints, t), max(maxAffinity, a)
	}
	for _, f := range found {
		fixed := fixedScore(f.taints, maxTaints, f.affinity, maxAffinity)
		c.fixed[f.info.name] = fixed
		c.ranked = append(c.ranked, candidate{name: f.info.name, score: fixed + c.demand.movingScore(f.info), tie: mix(r.seed, f.info.name)})
	}
	heap.Init(&c.ranked)
	return len(c.ranked) > 0
}

// explain counts the reasons of all nodes.
func (r *round) explain(c *class) string {
	reasons := map[string]int{}
	for _, name := range r.state.names {
		for _, reason := range c.demand.refusals(r.current(name)) {
			reasons[reason]++
		}
	}
	return message(len(r.state.names), reasons)
}

// current is a node with the placements of this round.
func (r *round) current(name string) *nodeInfo {
	if mine := r.touched[name]; mine != nil {
		return mine
	}
	return r.state.infos[name]
}

// own makes a node one that this round may change.
func (r *round) own(info *nodeInfo) *nodeInfo {
	if mine := r.touched[info.name]; mine != nil {
		return mine
	}
	mine := info.clone()
	r.touched[info.name] = mine
	return mine
}

// sample is how many feasible nodes are enough of n: all of 100, falling to 5 % of many, as kube-scheduler's default.
func sample(n int) int {
	if n < 100 {
		return n
	}
	percent := max(5, 50-n/125)
	return max(100, n*percent/100)
}

// candidate is a node as ranked for a class.
type candidate struct {
	name  string
	score int64
	tie   uint64
}

// candidates is a heap with the best on top.
type candidates []candidate

func (c candidates) Len() int { return len(c) }
func (c candidates) Less(i, j int) bool {
	if c[i].score != c[j].score {
		return c[i].score > c[j].score
	}
	if c[i].tie != c[j].tie {
		return c[i].tie < c[j].tie
	}
	return c[i].name < c[j].name
}
func (c candidates) Swap(i, j int) { c[i], c[j] = c[j], c[i] }

// Push implements heap.Interface.
func (c *candidates) Push(x any) { *c = append(*c, x.(candidate)) }

// Pop implements heap.Interface.
func (c *candidates) Pop() any {
	last := (*c)[len(*c)-1]
	*c = (*c)[:len(*c)-1]
	return last
}

// mix hashes a text with a seed.
func mix(seed uint64, text string) uint64 {
	h := fnv.New64a()
	for range 8 {
		h.Write([]byte{byte(seed)})
		seed >>= 8
	}
	h.Write([]byte(text))
	return h.Sum64()
}
