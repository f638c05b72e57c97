package verdict

import (
	"reflect"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/internal/plain"
	"lockstep/kinds/v1alpha1"
)

// status decides the Source's status: the verdict on the newest revision, and what the accepted one has lost.
func (v *Verdict) status(in Input, said saying) {
	a, live := in.Accepted, in.Live
	drift := ""
	if a.Revision != "" && a.Healthy == a.Revision && said.state != Success {
		said, drift = saying{Success, wasHealthy(a)}, lostText(said.text)
	} else if said.state == Success {
		drift = a.Roll.Drift
	}
	switch {
	case in.Seen.refused():
		said = saying{Error, refusal(in.Seen)}
	case in.Seen.Doubt != "":
		said = saying{Pending, in.Seen.Doubt}
	}
	s := v1alpha1.SourceStatus{
		Accepted: a.Revision, Applied: a.Applied, FetchError: plain.Text(in.FetchError), ForgeError: v.waiting(in),
		Objects: int32(a.Roll.Total), Healthy: int32(a.Roll.Healthy), Drift: Cut(drift), Seen: live.Seen, Since: live.Since,
		LeftOut: a.LeftOut, Warnings: a.Warnings,
	}
	switch {
	case in.Seen.Revision != "" && (in.Seen.Decided || len(in.Seen.Refusal) > 0 || in.Seen.Doubt != ""):
		s.Seen, s.State, s.Message = in.Seen.Revision, string(said.state), Cut(said.text)
		errs := in.Seen.errors()
		for _, e := range errs[:min(len(errs), MaxErrors)] {
			s.Errors = append(s.Errors, plain.Text(e))
		}
	case in.Seen.Revision == "" && a.Revision != "" && live.State != string(Error):
		s.Seen, s.State, s.Message = a.Revision, string(said.state), Cut(said.text)
	default: // nothing is known beyond what an earlier leader wrote
		s.State, s.Message, s.Errors = live.State, live.Message, live.Errors
	}
	if s.State != live.State || s.Seen != live.Seen {
		s.Since = metav1.NewTime(in.Now.Truncate(time.Second))
	}
	v.Status = s
	if equal(s, live) {
		return
	}
	if due := in.Memory.Written.Add(countsEvery); countsOnly(s, live) && in.Now.Before(due) {
		v.at(due)
		return
	}
	v.Write = true
}

// waiting words how many commit statuses wait for the forge, and why; empty as long as it has refused none.
func (v *Verdict) waiting(in Input) string {
	n := 0
	for _, t := range in.Told {
		if t.Waiting {
			n++
		}
	}
	if n == 0 {
		return ""
	}
	v.at(in.Now.Add(forgeEvery))
	if in.ForgeError == "" {
		return ""
	}
	return waitForForge(n) + ": " + shorten(plain.Text(in.ForgeError), 300)
}

func equal(a, b v1alpha1.SourceStatus) bool {
	if !a.Since.Equal(&b.Since) || !slices.Equal(a.Errors, b.Errors) {
		return false
	}
	a.Since, b.Since, a.Errors, b.Errors = metav1.Time{}, metav1.Time{}, nil, nil
	return reflect.DeepEqual(a, b)
}

// countsOnly says that two statuses differ only in what a rollout changes all the time.
func countsOnly(a, b v1alpha1.SourceStatus) bool {
	if a.State != b.State || (a.Drift == "") != (b.Drift == "") {
		return false
	}
	a.Healthy, a.Message, a.Objects, a.Drift = b.Healthy, b.Message, b.Objects, b.Drift
	return equal(a, b)
}
