package command

import (
	"strings"
	"testing"
	"time"

	"lockstep/daemon/control"
	"lockstep/kinds/v1alpha1"
)

func TestStanding(t *testing.T) {
	ready, away := control.NodeReport{Name: "a", Ready: true}, control.NodeReport{Name: "b"}
	source := func(s v1alpha1.SourceStatus) control.SourceReport { return control.SourceReport{Status: s} }
	well, rolling := source(v1alpha1.SourceStatus{State: "success"}), source(v1alpha1.SourceStatus{State: "pending"})
	unread, unreadable := source(v1alpha1.SourceStatus{}), source(v1alpha1.SourceStatus{FetchError: "gone"})
	failed, drifted := source(v1alpha1.SourceStatus{State: "failure"}), source(v1alpha1.SourceStatus{State: "success", Drift: "lost"})
	for name, c := range map[string]struct {
		ready   string
		rebuild string
		nodes   []control.NodeReport
		sources []control.SourceReport
		waiting int
		want    int
	}{
		"pods without any node":   {sources: []control.SourceReport{well}, waiting: 2, want: exitFailed},
		"nothing":                 {want: exitWell},
		"well":                    {nodes: []control.NodeReport{ready}, sources: []control.SourceReport{well}, want: exitWell},
		"the store":               {ready: "slow", sources: []control.SourceReport{well}, want: exitFailed},
		"a node":                  {nodes: []control.NodeReport{ready, away}, sources: []control.SourceReport{well}, want: exitFailed},
		"a node, rolling":         {nodes: []control.NodeReport{away}, sources: []control.SourceReport{rolling}, want: exitRolling},
		"rolling":                 {sources: []control.SourceReport{well, rolling}, want: exitRolling},
		"unread":                  {sources: []control.SourceReport{unread, well}, want: exitRolling},
		"unreadable":              {sources: []control.SourceReport{unreadable}, want: exitFailed},
		"failed, another rolling": {sources: []control.SourceReport{rolling, failed}, want: exitFailed},
		"drifted":                 {sources: []control.SourceReport{drifted}, want: exitFailed},
		"rebuilding":              {rebuild: "waiting for a", sources: []control.SourceReport{well}, want: exitRolling},
	} {
		r := control.Report{Rebuild: c.rebuild, Ready: c.ready, Nodes: c.nodes, Sources: c.sources, Waiting: c.waiting}
		if got := standing(r); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// TestLeft: what is left over is told with where it is and why, and no more than is told of it.
func TestLeft(t *testing.T) {
	var out strings.Builder
	r := control.Report{Cluster: "c", MoreLeft: 2, Nodes: []control.NodeReport{{Name: "n1", Ready: true}}, Left: []control.LeftReport{
		{Object: "PersistentVolume kept", Size: "2Gi", Node: "n1", Why: "its claim shop/old is gone"},
		{Object: "PersistentVolumeClaim shop/data-db-0", Size: "1Gi", Why: "nobody\x1b[31m states it"}}}
	if err := printReport(&out, r, dirFlags{}); err != nil {
		t.Fatal(err)
	}
	want := `
left over: state one and remove it with the commit trailer "Lockstep-Prune: allow" to be rid of it
  PersistentVolume kept                 2Gi  on n1  its claim shop/old is gone
  PersistentVolumeClaim shop/data-db-0  1Gi         nobody`
	got := out.String()
	if !strings.Contains(got, want) || !strings.HasSuffix(got, "  and 2 more\n") || strings.Contains(got, "\x1b") {
		t.Errorf("printed:\n%s", got)
	}
}

// TestNodeless tells a cluster that lost its nodes from one that never had any.
func TestNodeless(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	dirs := dirFlags{defaultData, "/run/a b"}
	for want, r := range map[string]control.Report{
		"no node has joined yet; ":                          {},
		"no node: n1 was removed at 2026-01-02T03:04:05Z; ": {Removed: &control.RemovedNode{Name: "n1", At: at}},
		"no node: n1 was removed at 2026-01-02T03:04:05Z; 2 pods wait for one; ": {
			Removed: &control.RemovedNode{Name: "n1", At: at}, Waiting: 2,
		},
	} {
		got := nodeless(r, dirs)
		if !strings.HasPrefix(got, want) || !strings.HasSuffix(got, " token create --run-dir '/run/a b' makes a token for one") {
			t.Errorf("%q, want %q…", got, want)
		}
	}
}
