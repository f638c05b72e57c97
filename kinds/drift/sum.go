package drift

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Storm sums up what was found of one commit's objects within a while, so that it is told once. The zero value has nothing.
type Storm struct {
	// Known are the outcomes by ID, at most maxKnown; more are counted.
	Known map[string]Finding
	First string // ID
	More  int
	// Begun is when the first came, Last when the newest did.
	Begun, Last time.Time
}

// maxKnown bounds the findings of a storm that are told apart: more than a cluster's logs keep of some hundred nodes.
const maxKnown = 4096

// Add takes in findings, the oldest first, at a time.
func (s *Storm) Add(found []Finding, now time.Time) {
	for _, f := range found {
		if s.Known == nil {
			s.Known, s.Begun, s.First = map[string]Finding{}, now, f.ID
		}
		s.Last = now
		if _, ok := s.Known[f.ID]; !ok && len(s.Known) >= maxKnown {
			s.More++
			continue
		}
		f.Evidence = nil
		s.Known[f.ID] = f
	}
}

// Clone returns a storm that shares nothing with s.
func (s *Storm) Clone() *Storm {
	out := *s
	out.Known = maps.Clone(s.Known)
	return &out
}

// Single says that it is one finding.
func (s *Storm) Single() bool { return len(s.Known) == 1 && s.More == 0 }

// Has says that a finding is among it.
func (s *Storm) Has(id string) bool {
	_, ok := s.Known[id]
	return ok
}

// Only says that all of it is of one kind.
func (s *Storm) Only(k Kind) bool {
	for _, f := range s.Known {
		if f.Kind != k {
			return false
		}
	}
	return true
}

// Repaired says that all of it is.
func (s *Storm) Repaired() bool {
	for _, f := range s.Known {
		if f.Repaired.IsZero() {
			return false
		}
	}
	return true
}

// Settled says that nobody is at repairing any of it.
func (s *Storm) Settled() bool {
	for _, f := range s.Known {
		if !f.Settled() {
			return false
		}
	}
	return true
}

// String words it: one finding as its line, several as "37 containers killed on node b, all repaired; first Pod shop/cart-1, cart: …".
func (s *Storm) String() string {
	first := s.Known[s.First]
	if s.Single() {
		if first.Kind == Object {
			return first.Outcome() + " " + first.Object + ": " + first.What
		}
		return first.Line()
	}
	kinds, nodes, repaired := map[Kind]int{}, map[string]bool{}, 0
	for _, f := range s.Known {
		kinds[f.Kind]++
		if f.Node != "" {
			nodes[f.Node] = true
		}
		if !f.Repaired.IsZero() {
			repaired++
		}
	}
	n := len(s.Known) + s.More
	if len(kinds) == 1 && first.Kind == Object {
		if repaired == len(s.Known) {
			return fmt.Sprintf("repaired %d objects, first %s: %s", n, first.Object, first.What)
		}
		return fmt.Sprintf("%d objects changed, %d repaired; first %s: %s", n, repaired, first.Object, first.What)
	}
	what := fmt.Sprintf("%d differences", n)
	if len(kinds) == 1 {
		what = first.Kind.Count(n)
	}
	return what + on(nodes) + ", " + share(repaired, len(s.Known)) + "; first " + first.Subject()
}

// on names the nodes, if they are few.
func on(nodes map[string]bool) string {
	names := slices.Sorted(maps.Keys(nodes))
	switch {
	case len(names) == 0:
		return ""
	case len(names) == 1:
		return " on node " + names[0]
	case len(names) <= 3:
		return " on nodes " + strings.Join(names, ", ")
	}
	return fmt.Sprintf(" on %d nodes", len(names))
}

func share(n, of int) string {
	switch n {
	case of:
		return "all repaired"
	case 0:
		return "none repaired"
	}
	return fmt.Sprintf("%d repaired", n)
}
