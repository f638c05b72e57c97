package sync

import (
	"context"
	"fmt"
	"time"

	"lockstep/kinds"
	"lockstep/kinds/drift"
	"lockstep/store/view"
	"lockstep/sync/found"
	"lockstep/sync/plan"
	"lockstep/sync/verdict"
)

// drifts is what a driver knows of drift.
type drifts struct {
	keeper found.Keeper
	source string

	begun bool
	found []drift.Finding // not told yet, the oldest first
	own   []drift.Finding // of found, those that are not kept yet
	// standing is what is only told, by object.
	standing map[kinds.Key]drift.Finding
	lost     bool // the log has, or may have, a loss of health that is not over
}

// begin takes in, once, what nodes told while nobody drove the source: what is newer than the last word on its commit.
func (d *drifts) begin(v *view.View, told []verdict.Told) {
	if d.begun {
		return
	}
	since := map[string]time.Time{}
	for _, t := range told {
		if t.Kind == verdict.Drift && t.At.After(since[t.Revision]) {
			since[t.Revision] = t.At
		}
	}
	before, _ := found.In(v, found.Filter{Source: d.source})
	known := map[string]bool{}
	for _, f := range d.found {
		known[f.ID] = true
	}
	var missed []drift.Finding
	for i := len(before) - 1; i >= 0; i-- {
		f := before[i]
		if f.Node != "" && f.Received.After(since[f.Commit]) && !known[f.ID] {
			missed = append(missed, f)
		}
		d.lost = d.lost || f.Kind == drift.Health && f.Repaired.IsZero()
	}
	d.found = append(missed, d.found...)
	d.begun = true
}

// repaired takes in what was repaired in the store without a push.
func (d *drifts) repaired(steps []plan.Step, now time.Time) {
	for i := range steps {
		f := d.finding(&steps[i], now)
		f.ID = fmt.Sprintf("object/%s/%d", steps[i].Key.Path(), now.UnixNano())
		f.Repaired, f.How = now, verbs(steps[i].Verb)
		d.found, d.own = append(d.found, f), append(d.own, f)
	}
}

// told takes in what differs in the store and is only told, and what does no longer.
func (d *drifts) told(steps []plan.Step, now time.Time) {
	before := d.standing
	d.standing = map[kinds.Key]drift.Finding{}
	for i := range steps {
		f, known := before[steps[i].Key]
		if known && f.What == steps[i].Reason {
			delete(before, steps[i].Key)
		} else {
			f = d.finding(&steps[i], now)
			f.ID = fmt.Sprintf("told/%s/%d", steps[i].Key.Path(), now.UnixNano())
			f.How = "drift is only reported of it, until a push"
			d.found, d.own = append(d.found, f), append(d.own, f)
		}
		d.standing[steps[i].Key] = f
	}
	for _, f := range before {
		f.Repaired, f.How = now, "it is as the manifest states it again, or differs otherwise"
		d.own = append(d.own, f)
	}
}

// finding is what a step is about.
func (d *drifts) finding(s *plan.Step, now time.Time) drift.Finding {
	f := drift.Finding{Kind: drift.Object, Object: s.Key.String(), What: s.Reason, Noticed: now, Source: d.source, Commit: s.Entry.Commit,
		File: s.Entry.Place(), Author: s.Entry.Author}
	if s.Live != nil {
		f.Evidence = append(f.Evidence, fmt.Sprintf("the store has it at revision %d", kinds.Revision(s.Live)))
	}
	return f
}

func verbs(v plan.Verb) string {
	if v == plan.Create {
		return "created as the manifest states it"
	}
	return "written back as the manifest states it"
}

// keep keeps what is new of the store's drift, and of the source's health, in its log.
func (d *drifts) keep(ctx context.Context, v verdict.Verdict, in verdict.Input) error {
	all := append([]drift.Finding(nil), d.own...)
	switch since := v.Memory.Lost; {
	case v.Lost != "":
		all = append(all, drift.Finding{ID: fmt.Sprintf("health/%s/%d", d.source, since.Unix()), Kind: drift.Health,
			Object: "Source " + d.source, What: v.Lost, Noticed: in.Now, Since: since, Source: d.source, Commit: in.Accepted.Revision,
			How: "health is what its controllers and nodes make of it"})
	case since.IsZero() && d.lost:
		all = append(all, d.over(in.Accepted.Revision, in.Now)...)
	}
	if len(all) == 0 {
		return nil
	}
	if _, err := d.keeper.Add(ctx, found.OfSource(d.source), all, 0); err != nil {
		return err
	}
	d.own, d.lost = nil, v.Lost != "" || d.lost && !v.Memory.Lost.IsZero()
	return nil
}

// over are the losses of health of the log that are over.
func (d *drifts) over(accepted string, now time.Time) (out []drift.Finding) {
	row, _, err := found.Table.Get(d.keeper.Store.View(), found.OfSource(d.source))
	if err != nil {
		return nil
	}
	for _, f := range row.Value.Findings {
		if f.Kind == drift.Health && f.Repaired.IsZero() {
			f.Repaired, f.How = now, "healthy again"
			if f.Commit != accepted {
				f.How = "another revision was accepted"
			}
			out = append(out, f)
		}
	}
	return out
}
