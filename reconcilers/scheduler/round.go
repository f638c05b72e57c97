package scheduler

import (
	"fmt"
	"slices"

	"lockstep/kinds"
)

// round is the work of one Decide.
type round struct {
	cluster
	seed    uint64
	mine    []bool   // the nodes that are copies, made for a placement
	ties    []uint64 // settle which of equally good nodes comes first
	stride  int      // from a node to the next that is looked at
	classes map[string]*class
	log     []int // the nodes that loads have come to or gone from
	moves   []int // and how many on each node
	full    []int // the nodes that have had as many pods as they take
	spare   spare

	state     *State
	nominated []nominee // by descending priority
	reserving int       // how many of them have been counted, for the pods that are decided next
	held      map[kinds.Key]nominee
	cleared   map[kinds.Key]bool // those that have lost their node in this round
	hunts     map[huntKey]*hunt
	budgets   budgets
	ended     map[*placed]bool // the victims so far
}

func newRound(s *State, seed uint64) *round {
	total := len(s.names)
	r := &round{
		cluster: newCluster(s), seed: seed, mine: make([]bool, total), ties: make([]uint64, total),
		stride: stride(total), classes: map[string]*class{}, moves: make([]int, total), state: s,
		held: map[kinds.Key]nominee{}, cleared: map[kinds.Key]bool{}, hunts: map[huntKey]*hunt{},
		budgets: budgets{state: s, read: map[string][]*budget{}}, ended: map[*placed]bool{},
	}
	for i, name := range s.names {
		r.ties[i] = mix(seed, name)
	}
	r.nominated = r.nominees()
	return r
}

// best takes the best node for one pod of the class. Nil: there is none, and the class says why.
func (r *round) best(c *class) *nodeInfo {
	if c.refused != "" {
		if c.invalid || len(c.wide) == 0 || c.moves == len(r.log) {
			return nil
		}
		c.refused, c.wakes = "", 0
	}
	r.follow(c)
	c.demand.spent = 0
	for {
		b := r.choose(c)
		if c.demand.failed != nil {
			c.refused, c.invalid = c.demand.failed.Error(), true
			c.wakes = NodeListed | NodeLabels | NodeAllocatable | PodGone | PodPlaced
			return nil
		}
		if b == nil {
			if r.widen(c) {
				continue
			}
			c.refused, c.wakes = r.explain(c)
			return nil
		}
		top := &b.ranked[0]
		// Other classes may have filled the node since it was ranked.
		if r.refuses(c.doubts, c.demand, r.nodes[top.node]) != nil || r.leans(c, top.node) {
			c.lose(b)
			continue
		}
		if score := top.fixed + r.moving(c, r.nodes[top.node]); score != top.score {
			top.score = score
			b.ranked.down(0)
			continue
		}
		c.best, c.among = r.standings(c), c.candidates()
		c.why = fmt.Sprintf("the best of %d nodes that can take it, score %d", c.among, top.score+c.sum)
		info := r.move(top.node, c.load, 1)
		top.score = top.fixed + r.moving(c, info)
		b.ranked.down(0)
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

// candidate ranks a node whose still scores are known.
func (r *round) candidate(c *class, node int, fixed int64) candidate {
	return candidate{node: node, fixed: fixed, score: fixed + r.moving(c, r.nodes[node]), tie: r.ties[node]}
}

// moving is the part of a node's score that placements on it change.
func (r *round) moving(c *class, n *nodeInfo) (sum int64) {
	for _, row := range c.moving {
		sum += row.weight * row.of(c.demand, n, &r.cluster)
	}
	return sum
}

// widen ranks more nodes: enough for the class's pods, a sample of many nodes as kube-scheduler takes it. It reports
// whether there is a candidate more, which rows that look across nodes may refuse for now.
func (r *round) widen(c *class) bool {
	total := len(r.nodes)
	want := max(sample(total), min(total, 2*c.left))
	more := r.spare.more[:0]
	for ; c.looked < total && want > 0; c.looked++ {
		i := (c.start + c.looked*r.stride) % total
		if r.refuses(c.firm, c.demand, r.nodes[i]) != nil {
			continue
		}
		if r.refuses(c.wide, c.demand, r.nodes[i]) == nil {
			want--
		}
		more = append(more, candidate{node: i, fixed: c.base, tie: r.ties[i]})
	}
	numbers := slices.Grow(r.spare.numbers[:0], len(more))[:len(more)]
	r.spare.more, r.spare.numbers = more, numbers
	for _, row := range c.still {
		r.fix(row, c, more, numbers)
	}
	for _, one := range more {
		r.put(c, r.candidate(c, one.node, one.fixed))
	}
	for i := range c.buckets {
		c.buckets[i].ranked.heapify()
	}
	return len(more) > 0
}

// fix adds the score of a row that stays to each candidate; numbers is room for one number each.
func (r *round) fix(row *score, c *class, list candidates, numbers []int64) {
	var most int64
	for n := range list {
		numbers[n] = row.of(c.demand, r.nodes[list[n].node], &r.cluster)
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
		list[n].fixed += row.weight * number
	}
}

// move adds a load to a node, or with sign -1 takes it away, for this round: what is asked next is asked of the cluster as it
// is after that.
func (r *round) move(i int, l load, sign int64) *nodeInfo {
	if !r.mine[i] {
		r.nodes[i], r.mine[i] = r.nodes[i].clone(), true
	}
	r.nodes[i].take(l, sign)
	r.cluster.move(l.group, i, sign)
	for _, m := range l.mounts {
		r.using[m.claim] += sign
	}
	r.log = append(r.log, i)
	r.moves[i]++
	if r.nodes[i].pods >= r.nodes[i].maxPods {
		r.full = append(r.full, i)
	}
	return r.nodes[i]
}

// stride is a step that comes by all of n nodes, far from each other in the order of names, where zones may stand together.
func stride(n int) int {
	step := max(1, n*5/8)
	for common(step, n) != 1 {
		step++
	}
	return step
}

func common(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return max(a, 1)
}
