package scheduler

import corev1 "k8s.io/api/core/v1"

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
