// Package scheduler binds pods that wait to the nodes that suit them best.
package scheduler

import (
	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
)

// Binding puts a pod on a node.
type Binding struct {
	Pod    *corev1.Pod
	Node   string
	Reason string
	// Best are the best nodes for it with their scores, the first of them its own, of so many that can take it. Nil: its node was chosen
	// before, and it was not compared.
	Best  []Ranked
	Among int
}

// Refusal says why no node takes a pod, in the words of the condition and the event.
type Refusal struct {
	Pod    *corev1.Pod
	Reason string
	// Wakes are the changes after which the verdict may be another, in its words at least.
	Wakes Changes
	// Nominated is the node where room is made for the pod; empty: nowhere.
	Nominated string
	// Evicts are the pods that end for it, there.
	Evicts []*corev1.Pod
}

// Reservation chooses a node for a pod of which claims have no volume yet, and with it these: the pod is bound to it once they have. What
// there is to be written of the volumes and claims, and of the pod that the node is held for it, is written at once; nothing where that
// has been done, and they are waited for.
type Reservation struct {
	Pod    *corev1.Pod
	Node   string
	Reason string
	// Volumes are given to claims, and Claims asked for to be made for the node, as they are to be stored.
	Volumes []*corev1.PersistentVolume
	Claims  []*corev1.PersistentVolumeClaim
}

// Failure says why the claims of a pod that was reserved were not bound: it has its node no longer, and is decided again later.
type Failure struct {
	Pod    *corev1.Pod
	Reason string
}

// Plan is what one decision asks for. Bindings and refusals are in the order of the pods decided. What evictions make room for is
// bound once their pods are gone.
type Plan struct {
	Bindings     []Binding
	Reservations []Reservation
	Refusals     []Refusal
	// Deferred are pods of which a reservation has chosen for a claim: they are decided once that is seen.
	Deferred []*corev1.Pod
	// Failures are of reservations before.
	Failures []Failure
	// Released are pods that are nominated to a node no longer, and were not decided.
	Released []*corev1.Pod
}

// Decide places pods, in their order, which is by descending priority, on the nodes of a state, which it does not change. Seed
// settles ties: equal arguments give equal plans.
func Decide(s *State, pods []*corev1.Pod, seed uint64) Plan {
	var bindings []Binding
	plan := decide(s, pods, seed, func(b Binding) { bindings = append(bindings, b) })
	plan.Bindings = bindings
	return plan
}

// decide is Decide that tells the bindings one by one, as they are decided. What is decided later changes none of them.
func decide(s *State, pods []*corev1.Pod, seed uint64, bind func(Binding)) Plan {
	r := newRound(s, seed)
	demanded := r.classify(pods)
	var plan Plan
	decided := map[kinds.Key]bool{}
	for i, p := range pods {
		r.reserve(priority(p))
		c := demanded[i]
		if !c.ready {
			r.prepare(c)
		}
		if r.unsettled(c) {
			plan.Deferred = append(plan.Deferred, p)
		} else if node, why := r.find(c, p); node == nil {
			plan.Refusals = append(plan.Refusals, r.refuse(c, p))
		} else if len(c.demand.volumes.late) > 0 {
			plan.Reservations = append(plan.Reservations, r.settle(c, p, node, why))
		} else {
			bind(Binding{Pod: p, Node: node.name, Reason: why, Best: c.best, Among: c.among})
		}
		decided[kinds.KeyOf(p)] = true
		if c.left--; c.left == 0 {
			r.release(c)
		}
	}
	for _, n := range r.nominated {
		if r.cleared[n.key] && !decided[n.key] {
			plan.Released = append(plan.Released, n.pod)
		}
	}
	// A pod that lost its node after it had been decided.
	for i := range plan.Refusals {
		if f := &plan.Refusals[i]; f.Nominated != "" && r.cleared[kinds.KeyOf(f.Pod)] {
			f.Nominated = ""
		}
	}
	return plan
}

// find takes a node for a pod: the one that it is nominated to if that can take it, else the best. What is held for itself is
// in nobody's way.
func (r *round) find(c *class, p *corev1.Pod) (*nodeInfo, string) {
	r.unhold(kinds.KeyOf(p))
	if c.invalid || c.barred {
		return nil, ""
	}
	if i, nominated := r.nominatedTo(p); nominated && c.demand.settled() &&
		r.refuses(c.predicates, c.demand, r.nodes[i]) == nil && !r.leans(c, i) {
		c.best = nil
		return r.move(i, c.load, 1), "it is nominated to it"
	}
	return r.best(c), c.why
}

// refuse says why no node takes a pod, and whether the end of others makes room for it.
func (r *round) refuse(c *class, p *corev1.Pod) Refusal {
	out, key := Refusal{Pod: p, Reason: c.refused, Wakes: c.wakes}, kinds.KeyOf(p)
	if c.invalid || len(r.nodes) == 0 {
		return out
	}
	found := r.preempt(c, p)
	out.Reason += " preemption: " + found.text
	if i, ok := r.nominatedTo(p); ok && found.keeps {
		out.Nominated = p.Status.NominatedNodeName
		r.hold(nominee{key, p, priority(p), i, c.load})
	}
	if found.node >= 0 {
		out.Nominated = r.nodes[found.node].name
		r.nominate(nominee{key, p, priority(p), found.node, c.load})
		for _, v := range found.ended {
			if v.pod.DeletionTimestamp == nil && !r.ended[v] {
				r.ended[v] = true
				r.budgets.spend(v.pod)
				out.Evicts = append(out.Evicts, v.pod)
			}
		}
	}
	return out
}
