package reconcilers

import (
	"slices"
	"strings"
	"testing"

	"lockstep/internal/golden"
	"lockstep/reconcilers/engine"
	"lockstep/reconcilers/loop"
)

// TestGraph holds what all reconcilers declare to the golden file.
func TestGraph(t *testing.T) {
	golden.File(t, "testdata/graph.txt", engine.Graph(All(Options{})))
}

// TestSharesAreNeeded: a field that is declared shared is written by another loop, too.
func TestSharesAreNeeded(t *testing.T) {
	loops := All(Options{})
	covers := func(outer, inner string) bool { return outer == inner || strings.HasPrefix(inner, outer+".") }
	for i, r := range loops {
		others := slices.Delete(slices.Clone(loops), i, i+1)
		for _, w := range r.Writes {
			for path, reason := range w.Shared {
				shared := slices.ContainsFunc(others, func(o engine.Reconciler) bool {
					return slices.ContainsFunc(o.Writes, func(theirs loop.Write) bool {
						return theirs.Kind == w.Kind && slices.ContainsFunc(theirs.Fields, func(f string) bool {
							return covers(f, path) || covers(path, f)
						})
					})
				})
				if !shared || reason == "" {
					t.Errorf("%s shares %s of %s with nobody, or says not why", r.Name, path, w.Kind.Kind)
				}
			}
		}
	}
}
