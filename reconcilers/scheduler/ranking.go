package scheduler

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Ranked is a node with its score for a pod.
type Ranked struct {
	Node  string
	Score int64
}

// shown is how many nodes are told of for a pod: the one that it gets, and those that were next.
const shown = 3

// mostSeen bounds how many candidates are looked at to find these: some have gone to another bucket or filled since they were ranked.
const mostSeen = 12

// standing is a candidate at a place of a bucket's heap.
type standing struct {
	candidate
	bucket, at int
	sum        int64 // what rows that look across nodes score the bucket
}

// standings are the best nodes for a pod of the class, the best first, as far as they are ranked: best has just chosen the first.
func (r *round) standings(c *class) []Ranked {
	open := c.open[:0]
	put := func(bucket, at int, sum int64) {
		open = append(open, standing{c.buckets[bucket].ranked[at], bucket, at, sum})
	}
	if !c.across() {
		put(0, 0, 0)
	}
	for i, bucket := range c.of {
		put(int(bucket), 0, c.sums[i])
	}
	out := make([]Ranked, 0, shown)
	for seen := 0; seen < mostSeen && len(out) < shown && len(open) > 0; seen++ {
		first := 0
		for i := range open {
			o, f := open[i], open[first]
			o.score, f.score = o.score+o.sum, f.score+f.sum
			if o.better(&f.candidate) {
				first = i
			}
		}
		top := open[first]
		open[first] = open[len(open)-1]
		open = open[:len(open)-1]
		for at := 2*top.at + 1; at <= 2*top.at+2 && at < len(c.buckets[top.bucket].ranked); at++ {
			put(top.bucket, at, top.sum)
		}
		n := r.nodes[top.node]
		moved := c.found != nil && c.found[top.node].bucket != int32(top.bucket+1)
		if moved || r.refuses(c.doubts, c.demand, n) != nil {
			continue
		}
		out = append(out, Ranked{n.name, top.fixed + r.moving(c, n) + top.sum})
	}
	c.open = open
	if len(out) > 1 {
		slices.SortStableFunc(out[1:], func(a, b Ranked) int { return cmp.Compare(b.Score, a.Score) })
	}
	return out
}

// scores words a binding's nodes: "n1 412, n2 409, n3 400, the best of 50".
func (b *Binding) scores() string {
	var out strings.Builder
	for _, one := range b.Best {
		fmt.Fprintf(&out, "%s %d, ", one.Node, one.Score)
	}
	fmt.Fprintf(&out, "the best of %d", b.Among)
	return out.String()
}
