package scheduler

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds/podstatus"
)

// Why ending pods is no help, as kube-scheduler words it.
const (
	neverPreempts = "not eligible due to preemptionPolicy=Never."
	victimsEnd    = "not eligible due to a terminating pod on the nominated node."
	noVictims     = "No preemption victims found for incoming pod"
	notHelpful    = "Preemption is not helpful for scheduling"
)

// Of many nodes a sample of candidates is enough: kube-scheduler's minCandidateNodesPercentage and -Absolute.
const (
	candidatesPercent = 10
	candidatesLeast   = 100
)

// victims are the pods whose end makes room on a node.
type victims struct {
	node       int       // index in the round's nodes
	pods       []*placed // the most important first
	violations int       // how many of them a budget wants to keep
	moves      int       // the node's count that this is of
}

// hunt is the search for victims on behalf of pods that are alike, in priority, too. What was found on a node holds until the
// round moves a load there, or on any node if a row looks across nodes, or spends what a budget allows.
type hunt struct {
	class    *class // of the pod that it is for now
	priority int32

	begun  bool
	order  []int // the nodes where ending pods may help, in the order to look at them
	looked int   // how many of them have been looked at
	found  []victims
	why    map[string]int // counts why nodes are no candidates

	log, spent int // the round's counts that the above is of
}

// huntKey tells searches apart: by what the rows that refuse ask of a pod, or its class if one of them looks across nodes.
type huntKey struct {
	class    *class
	asked    string
	priority int32
}

// preemption is what became of looking for room on behalf of a pod.
type preemption struct {
	node  int // where there is room once the victims have ended; below 0: nowhere
	ended []*placed
	keeps bool // what the pod is nominated to stays
	text  string
}

// preempt finds the node where ending pods of lower priority makes room for one that no node takes: as few as possible, and
// those that matter least, as kube-scheduler picks them.
func (r *round) preempt(c *class, p *corev1.Pod) preemption {
	if p.Spec.PreemptionPolicy != nil && *p.Spec.PreemptionPolicy == corev1.PreemptNever {
		return preemption{node: -1, keeps: true, text: neverPreempts}
	}
	if c.barred {
		return preemption{node: -1, text: message(len(r.nodes), map[string]int{notHelpful: len(r.nodes)})}
	}
	if i, ok := r.nominatedTo(p); ok && r.endsFor(c, p, i) {
		return preemption{node: -1, keeps: true, text: victimsEnd}
	}
	h := r.huntFor(c, p)
	best, ok := r.pick(h)
	if !ok {
		return preemption{node: -1, text: message(len(r.nodes), h.why)}
	}
	return preemption{node: best.node, ended: best.pods, text: fmt.Sprintf(
		"found a potential placement for pod on node %s, preempting %d victims", r.nodes[best.node].name, len(best.pods))}
}

func (r *round) huntFor(c *class, p *corev1.Pod) *hunt {
	key := huntKey{class: c, priority: priority(p)}
	if len(c.wide) == 0 {
		key.class, key.asked = nil, c.table.profile+" "+c.table.asked(p, &c.load)
	}
	h := r.hunts[key]
	if h == nil {
		h = &hunt{priority: key.priority}
		r.hunts[key] = h
	}
	h.class = c
	return h
}

// asked returns a text that is equal for pods that all rows which refuse, and do not look across nodes, answer alike.
func (t *table) asked(p *corev1.Pod, l *load) string {
	var bare corev1.Pod
	t.readAsked(p, &bare)
	text, err := bare.Marshal()
	if err != nil {
		text = []byte(p.UID) // alike to nobody
	}
	return string(append(l.appendTo(nil), text...))
}

// endsFor says that the pod waits for the end of others on the node it is nominated to.
func (r *round) endsFor(c *class, p *corev1.Pod, i int) bool {
	n := r.nodes[i]
	if row := r.refuses(c.predicates, c.demand, n); row != nil && !row.yields(c.demand, n, &r.cluster) {
		return false
	}
	return slices.ContainsFunc(n.there, func(o *placed) bool {
		return priority(o.pod) < priority(p) && o.pod.DeletionTimestamp != nil && podstatus.Preempted(&o.pod.Status)
	})
}

// pick returns the best candidate; false: there is none, and the hunt says why.
func (r *round) pick(h *hunt) (victims, bool) {
	if !h.begun || len(h.class.wide) > 0 && h.log != len(r.log) || h.spent != r.budgets.spent {
		r.begin(h)
	}
	kept := h.found[:0]
	for _, v := range h.found {
		if v.moves != r.moves[v.node] && !r.look(h, v.node, &v) {
			continue
		}
		kept = append(kept, v)
	}
	h.found = kept
	enough := max(candidatesLeast, len(h.order)*candidatesPercent/100)
	harmless := func(v victims) bool { return v.violations == 0 }
	for ; h.looked < len(h.order) && (len(h.found) < enough || !slices.ContainsFunc(h.found, harmless)); h.looked++ {
		var v victims
		if r.look(h, h.order[h.looked], &v) {
			h.found = append(h.found, v)
		}
	}
	if len(h.found) == 0 {
		return victims{}, false
	}
	return slices.MinFunc(h.found, r.worse), true
}

// begin lists the nodes where the end of pods may help.
func (r *round) begin(h *hunt) {
	c := h.class
	h.begun, h.log, h.spent = true, len(r.log), r.budgets.spent
	h.order, h.looked, h.found, h.why = h.order[:0], 0, nil, map[string]int{}
	for n := range r.nodes {
		i := (c.start + n*r.stride) % len(r.nodes)
		if row := r.refuses(c.predicates, c.demand, r.nodes[i]); row != nil && row.yields(c.demand, r.nodes[i], &r.cluster) {
			h.order = append(h.order, i)
		}
	}
	if other := len(r.nodes) - len(h.order); other > 0 {
		h.why[notHelpful] = other
	}
}

// look finds the victims on a node; false: there are none, which is counted.
func (r *round) look(h *hunt, i int, into *victims) bool {
	v, why := r.victimsOn(h, i)
	for _, reason := range why {
		h.why[reason]++
	}
	*into = v
	return len(why) == 0
}

// victimsOn tries a node without the pods of lower priority, and then with each of them again, those first that a budget wants
// to keep and the more important before the less: who is then in the way is a victim. Else it says why that is no help. The
// node is afterwards as it was.
func (r *round) victimsOn(h *hunt, i int) (victims, []string) {
	c, moves := h.class, r.moves[i]
	defer r.undo(r.try())
	var lower []*placed
	for _, p := range r.nodes[i].there {
		if priority(p.pod) < h.priority {
			lower = append(lower, p)
		}
	}
	if len(lower) == 0 {
		return victims{}, []string{noVictims}
	}
	back := lower // those that are away at the end
	defer func() {
		for _, p := range back {
			r.move(i, p.load, 1)
		}
	}()
	for _, p := range lower {
		r.move(i, p.load, -1)
	}
	if row := r.refuses(c.predicates, c.demand, r.nodes[i]); row != nil {
		return victims{}, row.words(c.demand, r.nodes[i], &r.cluster)
	}
	slices.SortFunc(lower, lessImportant)
	slices.Reverse(lower)
	v := victims{node: i, moves: moves}
	wanted, others := r.budgets.divide(lower)
	for n, p := range append(wanted, others...) {
		r.move(i, p.load, 1)
		if r.refuses(c.doubts, c.demand, r.nodes[i]) == nil && r.refuses(c.wide, c.demand, r.nodes[i]) == nil {
			continue
		}
		r.move(i, p.load, -1)
		v.pods = append(v.pods, p)
		if n < len(wanted) {
			v.violations++
		}
	}
	back = v.pods
	if len(v.pods) == 0 {
		return victims{}, []string{notHelpful}
	}
	slices.SortFunc(v.pods, func(a, b *placed) int { return lessImportant(b, a) })
	return v, nil
}

// lessImportant orders pods by how little their end matters: by priority, then the younger first.
func lessImportant(a, b *placed) int {
	if c := cmp.Compare(priority(a.pod), priority(b.pod)); c != 0 {
		return c
	}
	if c := cmp.Compare(started(b), started(a)); c != 0 {
		return c
	}
	return cmp.Or(strings.Compare(b.pod.Namespace, a.pod.Namespace), strings.Compare(b.pod.Name, a.pod.Name))
}

// started is when a pod started, in nanoseconds; one that has not is younger than all.
func started(p *placed) int64 {
	if p.pod.Status.StartTime == nil {
		return math.MaxInt64
	}
	return p.pod.Status.StartTime.UnixNano()
}

// worse orders candidates: by how many victims a budget wants to keep, the highest priority of a victim, the sum of their
// priorities, their number, and of those of the highest priority how long ago the first started. Ties are settled by the round.
func (r *round) worse(a, b victims) int {
	highest := func(v victims) int32 { return priority(v.pods[0].pod) }
	sum := func(v victims) (sum int64) {
		for _, p := range v.pods {
			sum += int64(priority(p.pod)) + math.MaxInt32 + 1 // so that fewer of a negative priority are less
		}
		return sum
	}
	// The first of the highest priority is the one that started first.
	return cmp.Or(
		cmp.Compare(a.violations, b.violations), cmp.Compare(highest(a), highest(b)), cmp.Compare(sum(a), sum(b)),
		cmp.Compare(len(a.pods), len(b.pods)), cmp.Compare(started(b.pods[0]), started(a.pods[0])),
		cmp.Compare(r.ties[a.node], r.ties[b.node]), cmp.Compare(a.node, b.node),
	)
}
