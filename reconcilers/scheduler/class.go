package scheduler

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// class is the pods of a round that are alike. Its candidates are ranked once: a placement changes what is known of one node,
// and what rows that look across nodes say of each bucket, so that a further pod costs a step of a heap and a look at the
// buckets, not at every node.
type class struct {
	pod        *corev1.Pod // one of them
	table      *table      // of their profile
	load       load
	left       int // of it in this round
	start      int // the first node to look at
	ready      bool
	demand     *demand
	predicates []*predicate // those that concern it
	firm       []*predicate // and of them those whose no stays
	doubts     []*predicate // of these, those that placements on a node change
	wide       []*predicate // and those that look across nodes, whose no may not stay
	still      []*score     // the scores that concern it and stay
	moving     []*score     // those that placements on a node change
	ranks      []*score     // those that look across nodes
	base       int64        // what the scores that do not concern it are worth

	moves   int   // how many moves of the round what follows knows
	touched []int // and of each of its tallies, how many nodes
	full    int
	looked  int // how many nodes have been looked at from start
	buckets []bucket
	by      map[string]int32 // buckets by what their nodes have in common
	found   []found          // by node, of a class with rows that look across nodes and more pods than one; else nil
	key     []byte           // room for what nodes have in common
	spots   []spot           // room for ranking
	of      []int32          // and whose they are
	scores  []int64
	sums    []int64
	sum     int64 // of what these rows score the bucket last chosen
	tallies []*tally
	// refused is the verdict once no node is left, wakes its changes. In a round nodes only fill, so it stays, unless a row
	// looks across nodes. It stays for ever where what the pods ask cannot be understood.
	refused string
	wakes   Changes
	invalid bool
	barred  bool   // nothing about nodes has the pods find one
	why     string // the reason of the last placement
	best    []Ranked
	among   int
	open    []standing // room for ranking
}

// bucket is candidates that all rows that look across nodes answer alike. A node that has moved to another bucket is dropped
// when it comes to the top.
type bucket struct {
	key    string // what its nodes have in common
	ranked candidates
	nodes  int // that have not moved
}

// found is where a class has a node.
type found struct {
	bucket int32 // its number and 1; 0: it is no candidate
	fixed  int32 // its candidate's
}

func (r *round) classify(pods []*corev1.Pod) []*class {
	out := make([]*class, len(pods))
	var alike fingerprints
	for i, p := range pods {
		l := loadOf(p)
		table, known := r.state.tables[cmp.Or(p.Spec.SchedulerName, corev1.DefaultSchedulerName)]
		if !known {
			table = r.state.table
		}
		key := alike.of(table, p, &l)
		c := r.classes[string(key)]
		if c == nil {
			c = &class{pod: p, load: l, table: table}
			var err error
			if !known {
				c.refused, c.invalid = fmt.Sprintf("no scheduler profile %q is declared", p.Spec.SchedulerName), true
			}
			if c.load.group, err = r.group(string(alike.group), p); err != nil {
				c.refused, c.invalid = err.Error(), true
			}
			if n := len(r.nodes); n > 0 {
				c.start = int(mix(r.seed, string(key)) % uint64(n))
			}
			r.classes[string(key)] = c
		}
		c.left++
		out[i] = c
	}
	return out
}

// prepare readies a class for its first pod.
func (r *round) prepare(c *class) {
	c.ready = true
	if c.invalid {
		return
	}
	before := len(r.tallies)
	d, err := newDemand(c.pod, c.load)
	if err == nil {
		d.defaults, d.defaultsListed = c.table.spread, c.table.spreadListed
		err = d.survey(&r.cluster)
	}
	var shut *bar
	switch {
	case errors.As(err, &shut):
		c.refused, c.wakes, c.barred = r.shut(shut), NodeListed|shut.wakes, true
		return
	case err != nil:
		c.refused, c.invalid = err.Error(), true
		return
	}
	c.demand, c.tallies = d, slices.Clone(r.tallies[before:])
	c.touched = make([]int, len(c.tallies))
	for i := range c.table.predicates {
		row := &c.table.predicates[i]
		if row.concerns != nil && !row.concerns(d) {
			continue
		}
		c.predicates = append(c.predicates, row)
		if row.scope == across {
			c.wide = append(c.wide, row)
			continue
		}
		c.firm = append(c.firm, row)
		if row.scope == itself {
			c.doubts = append(c.doubts, row)
		}
	}
	for i := range c.table.scores {
		row := &c.table.scores[i]
		switch {
		case row.concerns != nil && !row.concerns(d):
			c.base += row.weight * row.nothing
		case row.scope == still:
			c.still = append(c.still, row)
		case row.scope == itself:
			c.moving = append(c.moving, row)
		default:
			c.ranks = append(c.ranks, row)
		}
	}
	switch {
	case !c.across():
		c.buckets = []bucket{{ranked: r.spare.takeRanked()}}
	case c.left > 1:
		c.found = r.spare.takeFound(len(r.nodes))
	}
}

// across says whether a row of the class looks across nodes.
func (c *class) across() bool { return len(c.wide)+len(c.ranks) > 0 }

// release gives back what a class has no use for after its last pod.
func (r *round) release(c *class) {
	if len(c.tallies) > 0 {
		for _, t := range c.tallies {
			t.end()
		}
		r.tallies = slices.DeleteFunc(r.tallies, func(t *tally) bool { return t.over })
	}
	r.spare.give(c)
	*c = class{refused: c.refused, wakes: c.wakes, why: c.why}
}

// put adds a candidate to its bucket, as the last; it is not ranked yet.
func (r *round) put(c *class, one candidate) *bucket {
	at := int32(0)
	if c.across() {
		at = r.bucketOf(c, one.node)
	}
	if c.found != nil {
		c.found[one.node] = found{bucket: at + 1, fixed: int32(one.fixed)} // some thousands at most
	}
	b := &c.buckets[at]
	b.nodes++
	b.ranked = append(b.ranked, one)
	return b
}

func (r *round) bucketOf(c *class, node int) int32 {
	c.key = c.key[:0]
	for _, row := range c.wide {
		c.key = row.kin(c.demand, r.nodes[node], c.key)
	}
	for _, row := range c.ranks {
		c.key = row.kin(c.demand, r.nodes[node], c.key)
	}
	few := min(len(c.buckets), 8) // so many are found faster without the map
	for i := range few {
		if c.buckets[i].key == string(c.key) {
			return int32(i)
		}
	}
	if at, known := c.by[string(c.key)]; known {
		return at
	}
	if c.by == nil {
		c.by = map[string]int32{}
	}
	at, key := int32(len(c.buckets)), string(c.key)
	c.by[key] = at
	c.buckets = append(c.buckets, bucket{key: key, ranked: r.spare.takeRanked()})
	return at
}

// candidates counts the nodes that the class has ranked and that can take a pod of it, as choose has last seen them.
func (c *class) candidates() (count int) {
	if !c.across() {
		return c.buckets[0].nodes
	}
	for _, one := range c.spots {
		count += one.nodes
	}
	return count
}

// lose takes the top of a bucket off it.
func (c *class) lose(b *bucket) {
	if c.found != nil {
		c.found[b.ranked[0].node].bucket = 0
	}
	b.ranked.drop()
	b.nodes--
}

// follow takes over what the round has moved since the class was last asked: nodes that have come into another bucket, and nodes
// that are full and count no more for what others are scored by.
func (r *round) follow(c *class) {
	if c.found != nil {
		for i, t := range c.tallies {
			for _, node := range t.touched[c.touched[i]:] {
				r.rebucket(c, int(node))
			}
			c.touched[i] = len(t.touched)
		}
		for _, node := range r.full[c.full:] {
			if f := &c.found[node]; f.bucket != 0 && r.nodes[node].pods >= r.nodes[node].maxPods {
				c.buckets[f.bucket-1].nodes--
				f.bucket = 0
			}
		}
		c.full = len(r.full)
	}
	c.moves = len(r.log)
}

func (r *round) rebucket(c *class, node int) {
	f := c.found[node]
	if f.bucket == 0 {
		return
	}
	if at := r.bucketOf(c, node); at+1 != f.bucket {
		c.buckets[f.bucket-1].nodes--
		b := r.put(c, r.candidate(c, node, int64(f.fixed)))
		b.ranked.up(len(b.ranked) - 1)
	}
}

// choose returns the bucket with the best candidate, as far as its nodes are known; nil: there is none.
func (r *round) choose(c *class) *bucket {
	if !c.across() {
		if b := &c.buckets[0]; len(b.ranked) > 0 {
			return b
		}
		return nil
	}
	c.spots, c.of = c.spots[:0], c.of[:0]
	for i := range c.buckets {
		b := &c.buckets[i]
		for len(b.ranked) > 0 {
			top := b.ranked[0].node
			if c.found != nil && c.found[top].bucket != int32(i+1) {
				b.ranked.drop()
			} else if r.refuses(c.doubts, c.demand, r.nodes[top]) != nil {
				c.lose(b)
			} else {
				break
			}
		}
		if len(b.ranked) == 0 {
			continue
		}
		if n := r.nodes[b.ranked[0].node]; r.refuses(c.wide, c.demand, n) == nil {
			c.spots, c.of = append(c.spots, spot{node: n, nodes: b.nodes}), append(c.of, int32(i))
		}
	}
	if len(c.spots) == 0 {
		return nil
	}
	c.rank()
	best := 0
	top := func(i int) candidate {
		one := c.buckets[c.of[i]].ranked[0]
		one.score += c.sums[i]
		return one
	}
	first := top(best)
	for i := 1; i < len(c.spots); i++ {
		if one := top(i); one.better(&first) {
			best, first = i, one
		}
	}
	c.sum = c.sums[best]
	return &c.buckets[c.of[best]]
}

// rank sums what rows that look across nodes score the spots.
func (c *class) rank() {
	c.sums, c.scores = slices.Grow(c.sums[:0], len(c.spots))[:len(c.spots)], slices.Grow(c.scores[:0], len(c.spots))[:len(c.spots)]
	clear(c.sums)
	for _, row := range c.ranks {
		row.rank(c.demand, c.spots, c.scores)
		for i, n := range c.scores {
			c.sums[i] += row.weight * n
		}
	}
}
