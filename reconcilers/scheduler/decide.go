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
	// Wakes are the changes after which the verdict may be another, in its words at least.
	Wakes Changes
}

// Eviction takes a pod off its node, for the sake of another.
type Eviction struct {
	Pod    *corev1.Pod
	Reason string
}

// Plan is what one decision asks for. Bindings and refusals are in the order of the pods decided. What an eviction makes room
// for is bound once its pod is gone.
type Plan struct {
	Evictions []Eviction
	Bindings  []Binding
	Refusals  []Refusal
}

// Decide places pods, in their order, on the nodes of a state, which it does not change. Seed settles ties: equal
// arguments give equal plans.
func Decide(s *State, pods []*corev1.Pod, seed uint64) Plan {
	r := newRound(s, seed)
	demanded := r.classify(pods)
	var plan Plan
	for i, p := range pods {
		c := demanded[i]
		if node := r.place(c); node != nil {
			plan.Bindings = append(plan.Bindings, Binding{Pod: p, Node: node.name, Reason: c.why})
		} else {
			plan.Refusals = append(plan.Refusals, Refusal{Pod: p, Reason: c.refused, Wakes: c.wakes})
		}
	}
	return plan
}

// round is the work of one Decide.
type round struct {
	cluster
	table   *table
	seed    uint64
	mine    []bool   // the nodes that are copies, made for a placement
	ties    []uint64 // settle which of equally good nodes comes first
	classes map[string]*class
	placed  int // how many pods this round has placed
}

func newRound(s *State, seed uint64) *round {
	r := &round{
		cluster: cluster{nodes: make([]*nodeInfo, len(s.names)), objects: s.objects}, table: s.table,
		seed: seed, mine: make([]bool, len(s.names)), ties: make([]uint64, len(s.names)), classes: map[string]*class{},
	}
	for i, name := range s.names {
		r.nodes[i], r.ties[i] = s.infos[name], mix(seed, name)
	}
	return r
}

// class is the pods of a round that are alike. Its candidates are ranked once. As long as no row looks across nodes, a
// placement changes what is known of one node, so that each further pod costs a step of the heap, not a look at every node;
// else the class is ranked anew after each placement, its own or another's.
type class struct {
	demand     *demand
	predicates []*predicate // those that concern it
	doubts     []*predicate // and of them those that placements change
	still      []*score     // those that concern it and stay
	moving     []*score     // those that placements change
	base       int64        // what the scores that do not concern it are worth
	across     bool         // a row looks across nodes
	pods       int          // of it in this round
	start      int          // the first node to look at

	placed int // the round's count that what follows is of
	looked int // how many nodes have been looked at from start
	ranked candidates
	// refused is the verdict once no node is left, wakes its changes. In a round nodes only fill, so it stays, unless a row
	// looks across nodes. It stays for ever where what the pods ask cannot be understood.
	refused string
	wakes   Changes
	invalid bool
	why     string // the reason of the last placement
}

func (r *round) classify(pods []*corev1.Pod) []*class {
	out := make([]*class, len(pods))
	var alike fingerprints
	for i, p := range pods {
		l := loadOf(p)
		key := alike.of(r.table, p, &l)
		c := r.classes[string(key)]
		if c == nil {
			c = r.newClass(p, l)
			if n := len(r.nodes); n > 0 {
				c.start = int(mix(r.seed, string(key)) % uint64(n))
			}
			r.classes[string(key)] = c
		}
		c.pods++
		out[i] = c
	}
	return out
}

func (r *round) newClass(p *corev1.Pod, l load) *class {
	d, err := newDemand(p, l)
	if err != nil {
		return &class{refused: err.Error(), invalid: true}
	}
	c := &class{demand: d}
	for i := range r.table.predicates {
		row := &r.table.predicates[i]
		if row.concerns != nil && !row.concerns(d) {
			continue
		}
		c.predicates = append(c.predicates, row)
		if row.scope != still {
			c.doubts = append(c.doubts, row)
		}
		c.across = c.across || row.scope == across
	}
	for i := range r.table.scores {
		row := &r.table.scores[i]
		switch {
		case row.concerns != nil && !row.concerns(d):
			c.base += row.weight * row.nothing
		case row.scope == still:
			c.still = append(c.still, row)
		default:
			c.moving = append(c.moving, row)
			c.across = c.across || row.scope == across
		}
	}
	return c
}

// place takes the best node for one pod of the class. Nil: there is none, and the class says why.
func (r *round) place(c *class) *nodeInfo {
	if c.across && c.placed != r.placed && !c.invalid {
		c.looked, c.ranked, c.refused, c.wakes = 0, nil, "", 0
	}
	c.placed = r.placed
	if c.refused != "" {
		return nil
	}
	for {
		if c.ranked.Len() == 0 && !r.widen(c) {
			c.refused, c.wakes = r.explain(c)
			return nil
		}
		top := &c.ranked[0]
		// Other classes may have filled the node since it was ranked.
		if r.refuses(c.doubts, c.demand, r.nodes[top.node]) != nil {
			heap.Pop(&c.ranked)
			continue
		}
		if score := top.fixed + r.moving(c, r.nodes[top.node]); score != top.score {
			top.score = score
			heap.Fix(&c.ranked, 0)
			continue
		}
		c.why = fmt.Sprintf("the best of %d nodes that can take it, score %d", c.ranked.Len(), top.score)
		info := r.own(top.node)
		info.take(c.demand.load, 1)
		r.placed++
		if !c.across {
			top.score = top.fixed + r.moving(c, info)
			heap.Fix(&c.ranked, 0)
		}
		return info
	}
}

// refuses returns the first of the rows that the node answers with no, or nil: the node can take the pod.
func (r *round) refuses(list []*predicate, d *demand, n *nodeInfo) *predicate {
	for _, row := range list {
		if !row.check(d, n, &r.cluster) {
			return row
		}
	}
	return nil
}

// moving is the part of a node's score that placements change.
func (r *round) moving(c *class, n *nodeInfo) (sum int64) {
	for _, row := range c.moving {
		sum += row.weight * row.of(c.demand, n, &r.cluster)
	}
	return sum
}

// widen ranks more nodes: enough for the class's pods, a sample of many nodes as kube-scheduler takes it. It reports
// whether there is a candidate now.
func (r *round) widen(c *class) bool {
	total := len(r.nodes)
	want := max(sample(total), min(total, 2*c.pods))
	c.ranked = make(candidates, 0, want)
	for ; c.looked < total && len(c.ranked) < want; c.looked++ {
		i := (c.start + c.looked) % total
		if r.refuses(c.predicates, c.demand, r.nodes[i]) == nil {
			c.ranked = append(c.ranked, candidate{node: i, fixed: c.base, tie: r.ties[i]})
		}
	}
	numbers := make([]int64, len(c.ranked))
	for _, row := range c.still {
		r.fix(row, c, numbers)
	}
	for n := range c.ranked {
		found := &c.ranked[n]
		found.score = found.fixed + r.moving(c, r.nodes[found.node])
	}
	heap.Init(&c.ranked)
	return len(c.ranked) > 0
}

// fix adds the score of a row that stays to each candidate; numbers is room for one number each.
func (r *round) fix(row *score, c *class, numbers []int64) {
	var most int64
	for n := range c.ranked {
		numbers[n] = row.of(c.demand, r.nodes[c.ranked[n].node], &r.cluster)
		most = max(most, numbers[n])
	}
	for n, number := range numbers {
		switch {
		case row.scale == nil:
		case most == 0:
			number = row.nothing
		default:
			number = row.scale(number, most)
		}
		c.ranked[n].fixed += row.weight * number
	}
}

// explain counts the reasons of all nodes. The verdict may be another after what wakes the rows that refused, and in its words
// also after what the rows asked before them read.
func (r *round) explain(c *class) (string, Changes) {
	reasons := map[string]int{}
	wakes := NodeListed
	for _, n := range r.nodes {
		for _, row := range c.predicates {
			wakes |= row.wakes
			if !row.check(c.demand, n, &r.cluster) {
				for _, reason := range row.words(c.demand, n, &r.cluster) {
					reasons[reason]++
				}
				break
			}
		}
	}
	return message(len(r.nodes), reasons), wakes
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
