package scheduler

import (
	"encoding/binary"
	"iter"
)

// topologyKey names a topology: a label of nodes, and whether each node that has it is a domain of its own whatever its value.
type topologyKey struct {
	label string
	each  bool
}

// topology is the nodes by the values of a label: its domains.
type topology struct {
	of      []int32 // each node's domain; negative where it has no such label
	domains int
	unique  bool // no domain has more than one node
	lacking bool // some node has no such label

	spare [][]int64 // counts of tallies that are over, all 0
}

func (c *cluster) topology(key topologyKey) *topology {
	if t := c.topologies[key]; t != nil {
		return t
	}
	t := &topology{of: make([]int32, len(c.nodes)), unique: true}
	known := map[string]int32{}
	for i, n := range c.nodes {
		value, has := n.node.Labels[key.label]
		domain, seen := known[value]
		switch {
		case !has:
			t.of[i], t.lacking = -1, true
			continue
		case !seen || key.each:
			domain = int32(t.domains)
			known[value] = domain
			t.domains++
		default:
			t.unique = false
		}
		t.of[i] = domain
	}
	c.topologies[key] = t
	return t
}

// tally counts pods by domain, each by what its group weighs. Placements of a round change it.
type tally struct {
	*topology
	weigh  func(*group) int64
	within []bool  // the nodes whose pods count; nil: all
	counts []int64 // nil: all are 0
	some   int     // how many domains count other than 0

	levels map[int64]int // how many domains within have a count; nil where the least is not asked for
	listed int           // how many domains are within
	least  int64         // the least count of a domain within; meaningless where there is none

	touched []int32 // the nodes whose kin has changed, one after another

	number int  // of the tallies of a round, in the order in which they were made
	over   bool // nobody asks it any more
}

func (c *cluster) newTally(t *topology, within []bool, among iter.Seq[*group], weigh func(*group) int64) *tally {
	out := &tally{topology: t, weigh: weigh, within: within}
	for g := range among {
		if weight := weigh(g); weight != 0 {
			c.where(g, func(node int, count int64) { out.add(node, weight*count) })
		}
	}
	c.made++
	out.number = c.made
	c.tallies = append(c.tallies, out)
	return out
}

// follow has the tally know its least count from now on.
func (t *tally) follow() {
	t.levels = map[int64]int{}
	listed := make([]bool, t.domains)
	for i, domain := range t.of {
		if domain < 0 || listed[domain] || t.within != nil && !t.within[i] {
			continue
		}
		listed[domain] = true
		n := t.count(domain)
		if t.listed == 0 || n < t.least {
			t.least = n
		}
		t.listed++
		t.levels[n]++
	}
}

// end has the tally count no more, and leaves its counts to others.
func (t *tally) end() {
	t.over = true
	if t.counts != nil {
		clear(t.counts)
		t.spare, t.counts = append(t.spare, t.counts), nil
	}
}

func (t *topology) takeCounts() []int64 {
	last := len(t.spare) - 1
	if last < 0 {
		return make([]int64, t.domains)
	}
	counts := t.spare[last]
	t.spare = t.spare[:last]
	return counts
}

func (t *tally) count(domain int32) int64 {
	if t.counts == nil {
		return 0
	}
	return t.counts[domain]
}

func (t *tally) add(node int, amount int64) {
	domain := t.of[node]
	if domain < 0 || amount == 0 || t.within != nil && !t.within[node] {
		return
	}
	if t.counts == nil {
		t.counts = t.takeCounts()
	}
	if t.unique {
		t.touched = append(t.touched, int32(node))
	}
	old := t.counts[domain]
	next := old + amount
	t.counts[domain] = next
	switch {
	case old == 0:
		t.some++
	case next == 0:
		t.some--
	}
	if t.levels == nil {
		return
	}
	if t.levels[old]--; t.levels[old] == 0 {
		delete(t.levels, old)
	}
	t.levels[next]++
	switch {
	case next < t.least:
		t.least = next
	case old == t.least && t.levels[old] == 0:
		t.least = next
		for n := range t.levels {
			t.least = min(t.least, n)
		}
	}
}

// at is the count where a node is; has is false where the node has no such label.
func (t *tally) at(n *nodeInfo) (count int64, has bool) {
	domain := t.of[n.at]
	if domain < 0 {
		return 0, false
	}
	return t.count(domain), true
}

// kin appends what nodes have in common that the tally answers alike, after whatever placements elsewhere: their domain, or where
// that is the node alone, its count.
func (t *tally) kin(n *nodeInfo, key []byte) []byte {
	domain := int64(t.of[n.at])
	if t.unique && domain >= 0 {
		domain = t.count(int32(domain))
		key = append(key, '=')
	}
	return binary.AppendVarint(key, domain)
}

func kinOf(tallies []*tally, n *nodeInfo, key []byte) []byte {
	for _, t := range tallies {
		key = t.kin(n, key)
	}
	return key
}
