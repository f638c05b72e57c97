package encryption

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"lockstep/reconcilers/apiservers"
	"lockstep/store"
)

// settle is how long after every server seals with a new key the old one is kept: no write that was sealed before is on its way then,
// which takes etcd's time-out and the store's patience, 18 s, at most.
const settle = 30 * time.Second

// Verb is what is to be done next.
type Verb string

const (
	// Rest: nothing is to be done.
	Rest Verb = "rest"
	// Wait: something is under way, for the reason given.
	Wait Verb = "wait"
	// Raise: the data get the format in which values may be sealed.
	Raise Verb = "raise"
	// Put: the state becomes the step's.
	Put Verb = "put"
	// Rewrite: values are sealed anew.
	Rewrite Verb = "rewrite"
)

// Step is what is to be done next, and why.
type Step struct {
	Verb   Verb
	Reason string
	State  State // of Put
}

// Seen is what a step is decided from.
type Seen struct {
	// State in the store; the zero value: there is none.
	State State
	// Format of the data.
	Format int
	// Servers are those that run or did lately.
	Servers []apiservers.Server
	// Keys are those in this server's files, the oldest first; there is one at least.
	Keys []string
	// Seals is with what values are sealed.
	Seals store.Seals
	// Quiet is for how long every server has sealed with State.Writes and nothing was left to seal anew.
	Quiet time.Duration
	Now   time.Time
}

// Decide returns what the leader is to do next.
func Decide(s Seen) Step {
	if s.Format < store.Format {
		if old := without(s.Servers, func(is apiservers.Server) bool { return is.Format >= store.Format }); old != "" {
			return Step{Verb: Wait, Reason: "values are sealed once every server knows format " + fmt.Sprint(store.Format) +
				" of the data: " + old + " is of an older release"}
		}
		return Step{Verb: Raise, Reason: "every server knows it"}
	}
	state := s.State
	if state.Writes == "" {
		return Step{Verb: Put, Reason: "the cluster seals from now on", State: First(s.Keys[len(s.Keys)-1])}
	}
	if next := state.Next; next != nil && state.Writes != next.Name {
		if missing := without(s.Servers, func(is apiservers.Server) bool { return slices.Contains(is.Keys, next.Name) }); missing != "" {
			return Step{Verb: Wait, Reason: "the new key " + next.Name + " is not on " + missing + " yet"}
		}
		if !slices.Contains(s.Keys, next.Name) {
			return Step{Verb: Wait, Reason: "the new key " + next.Name + " is not on this server yet"}
		}
		state.Writes, state.Keys = next.Name, append(slices.Clone(state.Keys), next.Name)
		return Step{Verb: Put, Reason: "every server has the new key", State: state}
	}
	if s.Seals.Stale > 0 {
		return Step{Verb: Rewrite, Reason: fmt.Sprintf("%d values are not sealed as they would be now", s.Seals.Stale)}
	}
	if state.Next == nil {
		return Step{Verb: Rest}
	}
	return finish(s)
}

// finish ends a rotation once nothing needs the old keys.
func finish(s Seen) Step {
	state := s.State
	if late := without(s.Servers, func(is apiservers.Server) bool { return is.Writes == state.Writes }); late != "" {
		return Step{Verb: Wait, Reason: late + " does not seal with the new key " + state.Writes + " yet"}
	}
	for _, old := range state.Keys {
		if n := s.Seals.By[old]; old != state.Writes && n > 0 {
			text := "%d values cannot be opened and need key %s: see lockstep encryption status"
			return Step{Verb: Wait, Reason: fmt.Sprintf(text, n, old)}
		}
	}
	if s.Quiet < settle {
		return Step{Verb: Wait, Reason: "the old key is dropped as soon as no write with it can be on its way"}
	}
	return Step{Verb: Put, Reason: "nothing is sealed with an older key",
		State: State{Writes: state.Writes, Keys: []string{state.Writes}, Rotated: s.Now.UTC().Truncate(time.Second)}}
}

// without names the servers of which something does not hold; empty: it holds of all.
func without(servers []apiservers.Server, holds func(apiservers.Server) bool) string {
	var names []string
	for _, s := range servers {
		if !holds(s) {
			names = append(names, s.Name)
		}
	}
	return strings.Join(names, ", ")
}
