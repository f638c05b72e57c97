package command

import (
	"testing"

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
		nodes   []control.NodeReport
		sources []control.SourceReport
		want    int
	}{
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
	} {
		if got := standing(control.Report{Ready: c.ready, Nodes: c.nodes, Sources: c.sources}); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}
