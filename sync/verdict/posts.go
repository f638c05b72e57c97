package verdict

import (
	"slices"
	"strings"
	"time"
)

// posts decides the commit statuses: on commits that were passed over that they were, on the newest revision why it is
// refused, and on the accepted one how it does until it is healthy, then its drift. A revision that is no longer the
// newest is not waited for.
func (v *Verdict) posts(in Input, said saying) {
	b := board{in: in, verdict: v, told: make(map[string]Told, len(in.Told))}
	for _, t := range in.Told {
		b.told[t.Name()] = t
	}
	b.storms()
	for _, id := range in.Passed { // those that have a word keep it
		if _, has := b.last(Outcome, id); !has {
			b.want(Outcome, id, Error, superseded(in.Seen.Revision, "applied"))
		}
	}
	if in.Seen.refused() {
		b.want(Outcome, in.Seen.Revision, Error, refusal(in.Seen))
	}
	if in.Seen.Revision != "" && in.Seen.Decided {
		for _, old := range b.open() {
			b.want(Outcome, old, Error, superseded(in.Accepted.Revision, "healthy"))
		}
	}
	b.accepted(said)
}

// accepted tells how the accepted revision does, unless another one is about to be.
func (b *board) accepted(said saying) {
	in, a := b.in, b.in.Accepted
	newest := in.Seen.Revision == "" || in.Seen.Revision == a.Revision
	switch {
	case a.Revision == "" || !newest && !in.Seen.refused():
	case a.Healthy != a.Revision:
		if newest || said.state != Pending {
			b.want(Outcome, a.Revision, said.state, said.text)
		}
	case said.state == Success:
		b.healthy(said)
	default:
		b.lost(said)
	}
}

// healthy tells of a revision that is, or is again; once told, its success stays as it was worded.
func (b *board) healthy(said saying) {
	revision, drift := b.in.Accepted.Revision, b.in.Accepted.Roll.Drift
	if drift != "" {
		defer b.lost(saying{text: drift})
	} else {
		b.verdict.Memory.Lost = time.Time{}
	}
	if last, ok := b.last(Drift, revision); ok && drift == "" && last.Status.State != Success && !last.Found {
		b.want(Drift, revision, Success, "healthy again: "+said.text)
	}
	if last, ok := b.last(Outcome, revision); !ok || last.Status.State != Success {
		b.want(Outcome, revision, Success, said.text)
	}
}

// lost tells of a revision that was healthy and is not, or is not as it was pushed, once that has lasted.
func (b *board) lost(said saying) {
	since := &b.verdict.Memory.Lost
	if since.IsZero() {
		*since = b.in.Now
	}
	if due := since.Add(driftDwell); b.in.Now.Before(due) {
		b.verdict.at(due)
		return
	}
	b.verdict.Lost = lostText(said.text)
	b.want(Drift, b.in.Accepted.Revision, Failure, b.verdict.Lost)
}

// board has what was told, and what is to be.
type board struct {
	in      Input
	verdict *Verdict
	told    map[string]Told // by name
}

func (b *board) last(kind Kind, revision string) (Told, bool) {
	t, ok := b.told[Entry{Source: b.in.Source, Revision: revision, Kind: kind}.Name()]
	return t, ok
}

// open are the revisions, but for the accepted and the newest one, of which the last word is that they are waited for.
func (b *board) open() []string {
	var open []string
	for _, t := range b.told {
		if t.Kind == Outcome && t.Status.State == Pending && t.Revision != b.in.Accepted.Revision && t.Revision != b.in.Seen.Revision {
			open = append(open, t.Revision)
		}
	}
	slices.Sort(open)
	return open
}

// want posts a status, unless it was told. What waits has not been seen by anybody, and is replaced at once; a pending
// status that follows another too closely waits.
func (b *board) want(kind Kind, revision string, state State, text string) {
	b.post(Entry{Revision: revision, Kind: kind}, state, text)
}

func (b *board) post(e Entry, state State, text string) {
	kind, revision := e.Kind, e.Revision
	if !b.in.Posts || !commit(revision) {
		return
	}
	e = Entry{Source: b.in.Source, Revision: revision, Kind: kind, Found: e.Found, At: b.in.Now, Status: Status{
		State: state, Context: "lockstep/" + b.in.Cluster + "/" + b.in.Source, Description: Cut(text)}}
	if kind == Drift {
		e.Status.Context += "/drift"
	}
	if b.in.Link != nil {
		e.Status.TargetURL = b.in.Link(revision)
	}
	last, ok := b.told[e.Name()]
	if ok && last.Status == e.Status {
		return
	}
	if due := last.At.Add(pendingEvery); ok && !last.Waiting && last.Status.State == Pending && state == Pending && b.in.Now.Before(due) {
		b.verdict.at(due)
		return
	}
	b.told[e.Name()] = Told{Entry: e, Waiting: true}
	b.verdict.Posts = slices.DeleteFunc(b.verdict.Posts, func(p Entry) bool { return p.Name() == e.Name() })
	b.verdict.Posts = append(b.verdict.Posts, e)
}

// commit says whether a revision is a commit; a folder's has no forge to be told to.
func commit(revision string) bool { return revision != "" && !strings.Contains(revision, ":") }
