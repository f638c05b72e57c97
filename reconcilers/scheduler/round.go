package scheduler

import (
	"container/heap"
	"fmt"
)

// round is the work of one Decide.
type round struct {
	cluster
	table   *table
	seed    uint64
	mine    []bool   // the nodes that are copies, made for a placement
	ties    []uint64 // settle which of equally good nodes comes first
	classes map[string]*class
	placed  int // how many loads this round has moved
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
		info := r.move(top.node, c.demand.load, 1)
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

// move adds a load to a node, or with sign -1 takes it away, for this round: what is asked next is asked of the cluster as it
// is after that.
func (r *round) move(i int, l load, sign int64) *nodeInfo {
	info := r.own(i)
	info.take(l, sign)
	r.placed++
	return info
}

// own returns a node that this round may change.
func (r *round) own(i int) *nodeInfo {
	if !r.mine[i] {
		r.nodes[i], r.mine[i] = r.nodes[i].clone(), true
	}
	return r.nodes[i]
}
