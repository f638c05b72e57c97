package command

import (
	"bytes"
	"testing"

	"lockstep/daemon/control"
	"lockstep/kinds/v1alpha1"
)

func report(state, message string, objects ...control.ObjectReport) control.Report {
	return control.Report{
		Nodes: []control.NodeReport{{Name: "one", Ready: true}},
		Sources: []control.SourceReport{{
			Name: "shop", Status: v1alpha1.SourceStatus{Seen: "0123456789abcdef", State: state, Message: message}, Objects: objects,
		}},
	}
}

func TestProgressPrintsWhatChanged(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out, false)
	cart := control.ObjectReport{Object: "Deployment shop/cart", State: "progressing"}
	p.show(report("pending", "rolling out 0 of 1", cart))
	p.show(report("pending", "rolling out 0 of 1", cart))
	cart.State, cart.Cause = "failed", "CrashLoopBackOff, 0/1 ready"
	p.show(report("failure", "Deployment shop/cart: CrashLoopBackOff, 0/1 ready", cart))
	cart.State, cart.Cause = "healthy", ""
	p.show(report("success", "1 object in sync and healthy", cart))
	const want = `node one: ready
Deployment shop/cart: failed: CrashLoopBackOff, 0/1 ready
source shop: failure at 0123456789ab: Deployment shop/cart: CrashLoopBackOff, 0/1 ready
Deployment shop/cart: healthy
source shop: success at 0123456789ab: 1 object in sync and healthy
`
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), want)
	}
}

func TestProgressKeepsOneStatusLineInATerminal(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out, true)
	p.show(report("pending", "rolling out 0 of 1"))
	p.show(report("success", "1 object in sync and healthy"))
	const clear = "\r\x1b[K"
	want := "node one: ready\n" + clear + "source shop at 0123456789ab: rolling out 0 of 1" +
		clear + "source shop: success at 0123456789ab: 1 object in sync and healthy\n"
	if out.String() != want {
		t.Errorf("printed\n%q\nwant\n%q", out.String(), want)
	}
}

func TestSettled(t *testing.T) {
	for state, want := range map[string]bool{"": false, "pending": false, "failure": false, "success": true, "error": true} {
		if got := isSettled(report(state, "")); got != want {
			t.Errorf("isSettled(%q) = %v, want %v", state, got, want)
		}
	}
	if isSettled(control.Report{}) {
		t.Error("a cluster without a node is settled")
	}
}
