package encryption

import (
	"strings"
	"testing"
	"time"

	"lockstep/reconcilers/apiservers"
	"lockstep/store"
)

var now = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func told(name string, format int, writes string, keys ...string) apiservers.Server {
	return apiservers.Server{Name: name, Told: apiservers.Told{Format: format, Keys: keys, Writes: writes}}
}

// TestDecide walks through a cluster's life: an upgrade, and a rotation that waits at each of its steps.
func TestDecide(t *testing.T) {
	one, rotating := First("a"), First("a")
	rotating.Next = &Next{Name: "b", By: "a"}
	half := State{Writes: "b", Keys: []string{"a", "b"}, Next: rotating.Next}
	done := State{Writes: "b", Keys: []string{"b"}, Rotated: now}
	seals := func(stale int, by map[string]int) store.Seals { return store.Seals{By: by, Stale: stale} }
	ready := []apiservers.Server{told("one", 2, "b", "a", "b"), told("two", 2, "b", "a", "b")}
	for name, c := range map[string]struct {
		seen   Seen
		verb   Verb
		reason string
		state  State
	}{
		"an old server": {Seen{Format: 1, Servers: []apiservers.Server{told("new", 2, ""), told("old", 1, "")}}, Wait,
			"old is of an older release", State{}},
		"no old server":  {Seen{Format: 1, Servers: []apiservers.Server{told("new", 2, "")}}, Raise, "every server knows it", State{}},
		"nothing sealed": {Seen{Format: 2}, Put, "seals from now on", one},
		"all is sealed":  {Seen{Format: 2, State: one, Seals: seals(0, map[string]int{"a": 5})}, Rest, "", State{}},
		"plain values":   {Seen{Format: 2, State: one, Seals: seals(3, map[string]int{"": 3})}, Rewrite, "3 values", State{}},
		"one lacks the key": {Seen{Format: 2, State: rotating, Keys: []string{"a", "b"},
			Servers: []apiservers.Server{told("one", 2, "a", "a", "b"), told("two", 2, "a", "a")}}, Wait, "b is not on two yet", State{}},
		"the leader lacks it": {Seen{Format: 2, State: rotating}, Wait, "b is not on this server yet", State{}},
		"all have the key":    {Seen{Format: 2, State: rotating, Keys: []string{"a", "b"}, Servers: ready}, Put, "every server has", half},
		"old values": {Seen{Format: 2, State: half, Servers: ready, Seals: seals(1, map[string]int{"a": 1})}, Rewrite,
			"1 values", State{}},
		"one writes with the old": {Seen{Format: 2, State: half, Quiet: time.Hour,
			Servers: []apiservers.Server{told("one", 2, "b"), told("two", 2, "a")}}, Wait, "two does not seal with", State{}},
		"one cannot be read": {Seen{Format: 2, State: half, Servers: ready, Quiet: time.Hour, Seals: seals(0, map[string]int{"a": 1})},
			Wait, "need key a", State{}},
		"just now":    {Seen{Format: 2, State: half, Servers: ready, Quiet: settle - 1}, Wait, "no write with it", State{}},
		"all is done": {Seen{Format: 2, State: half, Servers: ready, Quiet: settle, Now: now}, Put, "nothing is sealed with", done},
		"at rest":     {Seen{Format: 2, State: done, Servers: ready, Quiet: settle, Now: now}, Rest, "", State{}},
	} {
		if c.seen.Keys == nil {
			c.seen.Keys = []string{"a"}
		}
		got := Decide(c.seen)
		if got.Verb != c.verb || !strings.Contains(got.Reason, c.reason) || !equal(got.State, c.state) {
			t.Errorf("%s: %+v, want %s %q %+v", name, got, c.verb, c.reason, c.state)
		}
	}
}

func equal(a, b State) bool { return string(a.Record().Data) == string(b.Record().Data) }
