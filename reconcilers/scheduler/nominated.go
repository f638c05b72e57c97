package scheduler

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
)

// nominee is a pod that waits for the room which was made for it on a node. Pods of no higher priority are decided as if it
// were there.
type nominee struct {
	key      kinds.Key
	pod      *corev1.Pod
	priority int32
	node     int // index in the round's nodes
	load     load
}

// nominees returns those of a state whose node is there, by descending priority.
func (r *round) nominees() (out []nominee) {
	for key, p := range r.state.nominated {
		i, ok := slices.BinarySearch(r.state.names, p.Status.NominatedNodeName)
		if !ok {
			continue
		}
		l := loadOf(p)
		var err error
		if l.group, err = r.group(string(appendGroup(nil, p)), p); err == nil { // else no node ever takes it
			out = append(out, nominee{key, p, priority(p), i, l})
		}
	}
	slices.SortFunc(out, func(a, b nominee) int {
		return cmp.Or(cmp.Compare(b.priority, a.priority), cmp.Compare(a.key.String(), b.key.String()))
	})
	return out
}

// reserve counts the nominated pods of that priority and above.
func (r *round) reserve(priority int32) {
	for ; r.reserving < len(r.nominated) && r.nominated[r.reserving].priority >= priority; r.reserving++ {
		if n := r.nominated[r.reserving]; !r.cleared[n.key] {
			r.hold(n)
		}
	}
}

func (r *round) hold(n nominee) {
	r.held[n.key] = n
	r.move(n.node, n.load, 1)
}

// unhold counts a nominated pod no longer.
func (r *round) unhold(key kinds.Key) {
	if n, ok := r.held[key]; ok {
		delete(r.held, key)
		r.move(n.node, n.load, -1)
	}
}

// nominatedTo returns the node that a pod is nominated to, if that is there.
func (r *round) nominatedTo(p *corev1.Pod) (int, bool) {
	if p.Status.NominatedNodeName == "" || r.cleared[kinds.KeyOf(p)] {
		return 0, false
	}
	return slices.BinarySearch(r.state.names, p.Status.NominatedNodeName)
}

// nominate holds a node's room for a pod. Pods of lower priority that are nominated to it lose that: they may find another
// place sooner.
func (r *round) nominate(n nominee) {
	for _, o := range r.nominated {
		if o.node == n.node && o.priority < n.priority {
			r.unhold(o.key)
			r.cleared[o.key] = true
		}
	}
	r.unhold(n.key)
	r.hold(n)
}

// leans says that a node takes a pod of the class only because of pods that are nominated, of which nobody knows that they
// will come.
func (r *round) leans(c *class, i int) bool {
	if len(c.wide) == 0 || len(r.held) == 0 {
		return false
	}
	defer r.undo(r.try())
	for _, n := range r.held {
		r.move(n.node, n.load, -1)
	}
	leans := r.refuses(c.wide, c.demand, r.nodes[i]) != nil
	for _, n := range r.held {
		r.move(n.node, n.load, 1)
	}
	return leans
}

// try begins moves that are made undone before the next question; undo forgets them.
func (r *round) try() int { return len(r.log) }

func (r *round) undo(from int) {
	for _, i := range r.log[from:] {
		r.moves[i]--
	}
	r.log = r.log[:from]
}
