package reconcilers

import (
	"flag"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lockstep/reconcilers/engine"
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

func TestOptionsAreValidated(t *testing.T) {
	if err := (Options{}).Validate(); err != nil {
		t.Errorf("the zero value: %v", err)
	}
	for name, o := range map[string]Options{
		"overlap": {PodCIDRs: Options{}.withDefaults().ServiceCIDRs},
		"ports":   {NodePorts: [2]int{40000, 30000}},
	} {
		if o.Validate() == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
