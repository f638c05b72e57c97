package scheduler

import (
	"container/heap"
	"hash/fnv"
)

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

// drop takes the best off.
func (c *candidates) drop() {
	last := len(*c) - 1
	(*c)[0] = (*c)[last]
	if *c = (*c)[:last]; last > 1 {
		heap.Fix(c, 0)
	}
}

// Push implements heap.Interface.
func (c *candidates) Push(x any) { *c = append(*c, x.(candidate)) }

// Pop implements heap.Interface.
func (c *candidates) Pop() any {
	last := (*c)[len(*c)-1]
	*c = (*c)[:len(*c)-1]
	return last
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
