package command

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"lockstep/daemon/control"
	"lockstep/kinds/v1alpha1"
)

func report(state, message string, objects ...control.ObjectReport) control.Report {
	return control.Report{
		Nodes: []control.NodeReport{{Name: "one", Ready: true}},
		Sources: []control.SourceReport{{
			Name: "shop", Where: "/srv/shop", Objects: objects,
			Status: v1alpha1.SourceStatus{Seen: "0123456789abcdef", State: state, Message: message},
		}},
	}
}

func TestProgressPrintsWhatChanged(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&screen{out: &out})
	cart := control.ObjectReport{Object: "Deployment shop/cart", State: "progressing"}
	p.show(report("pending", "rolling out 0 of 1", cart))
	p.show(report("pending", "rolling out 0 of 1", cart))
	cart.State, cart.Cause = "failed", "CrashLoopBackOff, 0/1 ready"
	p.show(report("failure", "Deployment shop/cart: CrashLoopBackOff, 0/1 ready", cart))
	cart.State, cart.Cause = "healthy", ""
	p.show(report("success", "1 object in sync and healthy", cart))
	const want = `node one: ready
source shop: following /srv/shop
Deployment shop/cart: failed: CrashLoopBackOff, 0/1 ready
source shop: failure at 0123456789ab: Deployment shop/cart: CrashLoopBackOff, 0/1 ready
Deployment shop/cart: healthy
source shop: success at 0123456789ab: 1 object in sync and healthy
`
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), want)
	}
}

func TestProgressTellsOnceThatANodeIsSilent(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&screen{out: &out})
	for _, ago := range []string{"50 s", "51 s", "2 min"} {
		cause := "node one has been silent for " + ago + "; 0/2 ready"
		p.show(report("success", "1 object in sync and healthy", control.ObjectReport{
			Object: "Deployment shop/cart",
			State:  "failed",
			Cause:  cause,
		}))
	}
	if n := strings.Count(out.String(), "silent for"); n != 1 {
		t.Errorf("told %d times:\n%s", n, out.String())
	}
}

func TestProgressKeepsOneStatusLineInATerminal(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&screen{out: &out, width: func() int { return 40 }})
	cart := control.ObjectReport{Object: "Deployment shop/cart", State: "progressing", Cause: "0/2 ready"}
	p.show(report("pending", "rolling out 0 of 1", cart))
	p.show(report("pending", "rolling out 0 of 1", cart))
	_, _ = p.screen.beside(&out).Write([]byte("a log line\n"))
	p.show(report("success", "1 object in sync and healthy"))
	const status = "source shop at 0123456789ab: 0 of 1 he…"
	want := "node one: ready\nsource shop: following /srv/shop\nDeployment shop/cart: progressing: 0/2 ready\n" +
		eraseLine + status +
		eraseLine + "a log line\n" + status +
		eraseLine + "source shop: success at 0123456789ab: 1 object in sync and healthy\n" + status +
		eraseLine
	if out.String() != want {
		t.Errorf("printed\n%q\nwant\n%q", out.String(), want)
	}
}

func TestProgressTellsOnceThatASourceCannotBeRead(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&screen{out: &out})
	away := report("success", "1 object in sync and healthy")
	away.Sources[0].Status.FetchError = "cannot read http://127.0.0.1/shop.git: connection refused"
	p.show(report("success", "1 object in sync and healthy"))
	p.show(away)
	p.show(away)
	p.show(report("success", "1 object in sync and healthy"))
	p.show(away)
	const want = `node one: ready
source shop: following /srv/shop
source shop: success at 0123456789ab: 1 object in sync and healthy
source shop: cannot read http://127.0.0.1/shop.git: connection refused; trying again
source shop: can be read again
source shop: cannot read http://127.0.0.1/shop.git: connection refused; trying again
`
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), want)
	}
}

// reports is a daemon that reports these one after the other, and ends the watching with the last.
type reports struct {
	control.Backend
	all  []control.Report
	stop func()
}

func (r *reports) Report(context.Context) (control.Report, error) {
	next := r.all[0]
	if r.all = r.all[1:]; len(r.all) == 0 {
		r.stop()
	}
	return next, nil
}

func TestFollowTellsAddressesThatComeLater(t *testing.T) {
	first, later := report("success", "1 object in sync and healthy"), report("success", "1 object in sync and healthy")
	first.Sources[0].Addresses = []string{"http://192.0.2.1:30080/"}
	later.Sources[0].Addresses = []string{"http://192.0.2.1:30080/", "http://192.0.2.1:30081/"}
	ctx, cancel := context.WithCancel(t.Context())
	var out bytes.Buffer
	p := newProgress(&screen{out: &out})
	p.follow(ctx, &reports{all: []control.Report{first, first, later}, stop: cancel}, func(r control.Report) {
		p.screen.line("settled")
		p.opened(r)
	})
	const want = `node one: ready
source shop: following /srv/shop
source shop: success at 0123456789ab: 1 object in sync and healthy
settled
open     http://192.0.2.1:30080/
open     http://192.0.2.1:30081/
`
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), want)
	}
}

func TestAwaited(t *testing.T) {
	cart := control.ObjectReport{Object: "Deployment shop/cart", State: "healthy"}
	till := control.ObjectReport{Object: "Deployment shop/till", State: "progressing", Cause: "0/2 ready"}
	for want, objects := range map[string][]control.ObjectReport{
		"rolling out 0 of 2": {},
		"1 of 1 healthy":     {cart},
		"1 of 2 healthy; Deployment shop/till: 0/2 ready": {cart, till},
	} {
		if got := awaited(report("pending", "rolling out 0 of 2", objects...).Sources[0]); got != want {
			t.Errorf("awaited = %q, want %q", got, want)
		}
	}
	const doubt = "the folder has lost 2 objects; believed once it has rested for 600ms"
	if got := awaited(report("pending", doubt, cart).Sources[0]); got != doubt {
		t.Errorf("awaited = %q, want %q", got, doubt)
	}
}

func TestShort(t *testing.T) {
	for revision, want := range map[string]string{
		"":                          "none yet",
		"0123456789abcdef":          "0123456789ab",
		"sha256:abbd3c0ffee0123456": "abbd3c0ffee0",
	} {
		if got := short(revision); got != want {
			t.Errorf("short(%q) = %q, want %q", revision, got, want)
		}
	}
}

func TestSettled(t *testing.T) {
	for state, want := range map[string]bool{"": false, "pending": false, "failure": true, "success": true, "error": true} {
		if got := isSettled(report(state, "")); got != want {
			t.Errorf("isSettled(%q) = %v, want %v", state, got, want)
		}
	}
	if unread := report("", ""); isSettled(unread) {
		t.Error("a source that was not read yet is settled")
	} else if unread.Sources[0].Status.FetchError = "connection refused"; !isSettled(unread) {
		t.Error("a source that cannot be read keeps the others waiting")
	}
	if isSettled(control.Report{}) {
		t.Error("a cluster without a node is settled")
	}
}

// TestHoldIsToldWhole: a commit status has no room for all the claims that a hold names; who asks the daemon sees them.
func TestHoldIsToldWhole(t *testing.T) {
	const whole = `held: would delete the data of 2 claims; allow it: shop/a (shop.yaml:4), shop/b (shop.yaml:9)`
	r := report("error", whole[:80]+"…")
	r.Sources[0].Status.Errors = []string{whole}
	var status, progress bytes.Buffer
	if err := printReport(&status, r, dirFlags{defaultData, defaultRun}); err != nil {
		t.Fatal(err)
	}
	newProgress(&screen{out: &progress}).show(r)
	for name, text := range map[string]string{"status": status.String(), "progress": progress.String()} {
		if !strings.Contains(text, whole) {
			t.Errorf("%s does not have all of it:\n%s", name, text)
		}
	}
}
