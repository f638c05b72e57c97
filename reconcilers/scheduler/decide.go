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
	r := newRound(s, seed)
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
	seed    uint64
	nodes   []*nodeInfo // in order of their names, with the placements of this round
	mine    []bool      // the nodes that are copies, made for a placement
	ties    []uint64    // settle which of equally good nodes comes first
	classes map[string]*class
}

func newRound(s *State, seed uint64) *round {
	r := &round{
		seed: seed, nodes: make([]*nodeInfo, len(s.names)), mine: make([]bool, len(s.names)),
		ties: make([]uint64, len(s.names)), classes: map[string]*class{},
	}
	for i, name := range s.names {
		r.nodes[i], r.ties[i] = s.infos[name], mix(seed, name)
	}
	return r
}

// class is the pods of a round that are alike. Its candidates are scored once; a placement changes one node's score, so
// that each further pod costs a step of the heap, not a look at every node.
type class struct {
	demand  *demand
	invalid string // why its pods can never be placed; empty for none
	pods    int    // of it in this round
	start   int    // the first node to look at
	looked  int    // how many nodes have been looked at from there
	ranked  candidates
	// refused is the verdict on the class once no node is left: in a round nodes only fill, so it stays.
	refused string
	why     string // the reason of the last placement
}

func (r *round) classify(pods []*corev1.Pod) []*class {
	out := make([]*class, len(pods))
	for i, p := range pods {
		key := fingerprint(p, loadOf(p))
		c := r.classes[key]
		if c == nil {
			c = &class{}
			d, err := newDemand(p)
			if err != nil {
				c.invalid = err.Error()
			}
			c.demand = d
			if n := len(r.nodes); n > 0 {
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
		// Other classes may have filled the node since it was ranked.
		if len(c.demand.refusals(r.nodes[top.node])) > 0 {
			heap.Pop(&c.ranked)
			continue
		}
		if score := top.fixed + c.demand.movingScore(r.nodes[top.node]); score != top.score {
			top.score = score
			heap.Fix(&c.ranked, 0)
			continue
		}
		c.why = fmt.Sprintf("the best of %d nodes that can take it, score %d", c.ranked.Len(), top.score)
		info := r.own(top.node)
		info.take(c.demand.load, 1)
		top.score = top.fixed + c.demand.movingScore(info)
		heap.Fix(&c.ranked, 0)
		return info, ""
	}
}

// widen ranks more nodes: enough for the class's pods, a sample of many nodes as kube-scheduler takes it. It reports
// whether there is a candidate now.
func (r *round) widen(c *class) bool {
	total := len(r.nodes)
	want := max(sample(total), min(total, 2*c.pods))
	c.ranked = make(candidates, 0, want)
	taints, affinities := make([]int64, 0, want), make([]int64, 0, want)
	var maxTaints, maxAffinity int64
	for ; c.looked < total && len(c.ranked) < want; c.looked++ {
		i := (c.start + c.looked) % total
		if len(c.demand.refusals(r.nodes[i])) > 0 {
			continue
		}
		t, a := c.demand.rawScores(r.nodes[i])
		taints, affinities = append(taints, t), append(affinities, a)
		maxTaints, maxAffinity = max(maxTaints, t), max(maxAffinity, a)
		c.ranked = append(c.ranked, candidate{node: i, tie: r.ties[i]})
	}
	for n := range c.ranked {
		found := &c.ranked[n]
		found.fixed = fixedScore(taints[n], maxTaints, affinities[n], maxAffinity)
		found.score = found.fixed + c.demand.movingScore(r.nodes[found.node])
	}
	heap.Init(&c.ranked)
	return len(c.ranked) > 0
}

// explain counts the reasons of all nodes.
func (r *round) explain(c *class) string {
	reasons := map[string]int{}
	for _, n := range r.nodes {
		for _, reason := range c.demand.refusals(n) {
			reasons[reason]++
		}
	}
	return message(len(r.nodes), reasons)
}

// own returns a node that this round may change.
func (r *round) own(i int) *nodeInfo {
	if !r.mine[i] {
		r.nodes[i], r.mine[i] = r.nodes[i].clone(), true
	}
	return r.nodes[i]
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
	node         int // index in the round's nodes
	fixed, score int64
	tie          uint64
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
	return c[i].node < c[j].node
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
