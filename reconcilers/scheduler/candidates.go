package scheduler

import "hash/fnv"

// candidate is a node as ranked for a class.
type candidate struct {
	node         int // index in the round's nodes
	fixed, score int64
	tie          uint64
}

// better says that a candidate is ranked before another.
func (a *candidate) better(b *candidate) bool {
	switch {
	case a.score != b.score:
		return a.score > b.score
	case a.tie != b.tie:
		return a.tie < b.tie
	}
	return a.node < b.node
}

// candidates is a heap with the best on top. It is container/heap for one type: most of what a round does is done to such.
type candidates []candidate

// heapify makes any list a heap.
func (c candidates) heapify() {
	for i := len(c)/2 - 1; i >= 0; i-- {
		c.down(i)
	}
}

// fix puts a candidate that has changed where it belongs.
func (c candidates) fix(i int) {
	if !c.down(i) {
		c.up(i)
	}
}

func (c candidates) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !c[i].better(&c[parent]) {
			return
		}
		c[i], c[parent] = c[parent], c[i]
		i = parent
	}
}

// down says whether the candidate went down.
func (c candidates) down(i int) bool {
	start := i
	for {
		child := 2*i + 1
		if child >= len(c) {
			break
		}
		if right := child + 1; right < len(c) && c[right].better(&c[child]) {
			child = right
		}
		if !c[child].better(&c[i]) {
			break
		}
		c[i], c[child] = c[child], c[i]
		i = child
	}
	return i > start
}

// drop takes the best off.
func (c *candidates) drop() {
	last := len(*c) - 1
	(*c)[0] = (*c)[last]
	*c = (*c)[:last]
	c.down(0)
}

// sample is how many feasible nodes are enough of n: all of 100, falling to 5 % of many, as kube-scheduler's default.
func sample(n int) int {
	if n < 100 {
		return n
	}
	percent := max(5, 50-n/125)
	return max(100, n*percent/100)
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
