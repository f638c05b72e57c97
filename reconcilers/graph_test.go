package reconcilers

import (
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lockstep/reconcilers/engine"
	"lockstep/reconcilers/loop"
)

// TestGraph compares what all reconcilers declare with the golden file. The flag -update is looptest's.
func TestGraph(t *testing.T) {
	const file = "testdata/graph.txt"
	got := engine.Graph(All(Options{}))
	if flag.Lookup("update").Value.String() == "true" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("the graph differs (-want +got, run with -update to accept):\n%s", diff)
	}
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
