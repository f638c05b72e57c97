// Package scheduler binds pods that wait to the nodes that suit them best.
package scheduler

import corev1 "k8s.io/api/core/v1"

// Binding puts a pod on a node.
type Binding struct {
	Pod    *corev1.Pod
	Node   string
	Reason string
}

// Refusal says why no node takes a pod, in the words of the condition and the event.
type Refusal struct {
	Pod    *corev1.Pod
	Reason string
	// Wakes are the changes after which the verdict may be another, in its words at least.
	Wakes Changes
}

// Eviction takes a pod off its node, for the sake of another.
type Eviction struct {
	Pod    *corev1.Pod
	Reason string
}

// Plan is what one decision asks for. Bindings and refusals are in the order of the pods decided. What an eviction makes room
// for is bound once its pod is gone.
type Plan struct {
	Evictions []Eviction
	Bindings  []Binding
	Refusals  []Refusal
}

// Decide places pods, in their order, on the nodes of a state, which it does not change. Seed settles ties: equal
// arguments give equal plans.
func Decide(s *State, pods []*corev1.Pod, seed uint64) Plan {
	r := newRound(s, seed)
	demanded := r.classify(pods)
	var plan Plan
	for i, p := range pods {
		c := demanded[i]
		if node := r.place(c); node != nil {
			plan.Bindings = append(plan.Bindings, Binding{Pod: p, Node: node.name, Reason: c.why})
		} else {
			plan.Refusals = append(plan.Refusals, Refusal{Pod: p, Reason: c.refused, Wakes: c.wakes})
		}
	}
	return plan
}
