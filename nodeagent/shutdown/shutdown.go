// Package shutdown decides in which order a node's pods end when its machine shuts down, and how long they get, by the kubelet's
// rules.
package shutdown

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	helpers "k8s.io/component-helpers/scheduling/corev1"

	"lockstep/kinds"
)

// What becomes of pods, in the kubelet's words.
const (
	Reason  = "Terminated" // of those that end
	Message = "Pod was terminated in response to imminent node shutdown."

	RefusedReason  = "NodeShutdown" // of those that come meanwhile
	RefusedMessage = "Pod was rejected as the node is shutting down."
)

// Share is the time that pods get of a priority, up to the next one that a policy has.
type Share struct {
	Priority int32
	Grace    time.Duration
}

// Policy is how a node ends its pods: shares in the order of their priorities, which is the order in which they have their turn. The
// zero value lets the machine shut down as if there was no node.
type Policy []Share

// Texts are a policy as flags have it, by the kubelet's names.
type Texts struct {
	// Period is what all pods get, CriticalPods how much of it those of the system's priority classes get at its end.
	Period, CriticalPods time.Duration
	// ByPriority states the shares instead: PRIORITY=TIME, with commas between.
	ByPriority string
}

// Parse reads a policy.
func Parse(t Texts) (Policy, error) {
	switch {
	case t.ByPriority != "" && (t.Period != 0 || t.CriticalPods != 0):
		return nil, errors.New("grace periods by priority stand for themselves")
	case t.ByPriority != "":
		return parseShares(t.ByPriority)
	case t.CriticalPods > t.Period:
		return nil, fmt.Errorf("critical pods have a part of the grace period of %v, and not %v", t.Period, t.CriticalPods)
	case t.Period == 0 && t.CriticalPods == 0:
		return nil, nil
	}
	for _, d := range []time.Duration{t.Period, t.CriticalPods} {
		if err := check(d); d != 0 && err != nil {
			return nil, err
		}
	}
	return Policy{{0, t.Period - t.CriticalPods}, {kinds.LowestCritical, t.CriticalPods}}, nil
}

func check(grace time.Duration) error {
	if grace < time.Second || grace%time.Second != 0 {
		return fmt.Errorf("a grace period of %v: want whole seconds", grace)
	}
	return nil
}

func parseShares(text string) (Policy, error) {
	var p Policy
	for _, one := range strings.Split(text, ",") {
		priority, grace, ok := strings.Cut(one, "=")
		n, err := strconv.ParseInt(priority, 10, 32)
		if !ok || err != nil {
			return nil, fmt.Errorf("%q: want PRIORITY=TIME", one)
		}
		d, err := time.ParseDuration(grace)
		if err == nil {
			err = check(d)
		}
		if err != nil {
			return nil, fmt.Errorf("%q: %w", one, err)
		}
		if slices.ContainsFunc(p, func(s Share) bool { return s.Priority == int32(n) }) {
			return nil, fmt.Errorf("priority %d stands there twice", n)
		}
		p = append(p, Share{int32(n), d})
	}
	slices.SortFunc(p, func(a, b Share) int { return cmp.Compare(a.Priority, b.Priority) })
	return p, nil
}

// Total is how long a machine has to wait for its pods.
func (p Policy) Total() (total time.Duration) {
	for _, s := range p {
		total += s.Grace
	}
	return total
}

// Group is pods that end together.
type Group struct {
	Share
	Pods []*corev1.Pod
}

// Groups divides pods into those that have a turn together, in the order of their turns; none is empty. A pod belongs to the highest
// share that its priority reaches, one of a lower priority than all shares to the first.
func (p Policy) Groups(pods []*corev1.Pod) []Group {
	groups := make([]Group, len(p))
	for i, s := range p {
		groups[i].Share = s
	}
	for _, pod := range pods {
		if len(p) == 0 {
			break
		}
		priority, at := helpers.PodPriority(pod), 0
		for i, s := range p {
			if s.Priority <= priority {
				at = i
			}
		}
		groups[at].Pods = append(groups[at].Pods, pod)
	}
	return slices.DeleteFunc(groups, func(g Group) bool { return len(g.Pods) == 0 })
}

// For is the grace period of a pod: its own, but at most that of its share.
func (s Share) For(pod *corev1.Pod) time.Duration {
	if own := pod.Spec.TerminationGracePeriodSeconds; own != nil {
		return min(kinds.Seconds(*own), s.Grace)
	}
	return s.Grace
}
