package sync

import (
	"context"
	"errors"
	"fmt"

	"lockstep/kinds"
	"lockstep/kinds/v1alpha1"
	"lockstep/store"
	"lockstep/store/view"
	"lockstep/sync/apply"
	"lockstep/sync/plan"
	"lockstep/sync/report"
	"lockstep/sync/verdict"
)

// tell decides what is told of the source, and writes it: the Source's status, and commit statuses into the outbox.
func (d *driver) tell(ctx context.Context, next *later) error {
	live, ok := view.Get[*v1alpha1.Source](d.sync.opts.Store.View(), "", d.source.Name)
	if !ok {
		return nil // it is about to be put back, or this driver to be stopped
	}
	in, err := d.facts(live.Status)
	if err != nil {
		return err
	}
	d.drifts.begin(d.sync.opts.Store.View(), in.Told)
	in.Found = d.drifts.found
	d.sync.metrics.rolled(d.source.Name, in.Accepted.Roll)
	v := verdict.Decide(in)
	d.memory = v.Memory
	next.at(v.Again)
	if v.Healthy {
		if err := d.applier.Mark(ctx, d.source.Name, func(s *apply.State) { s.Healthy = s.Accepted }); err != nil {
			return err
		}
	}
	if v.Write {
		if err := d.write(ctx, live, v.Status, next); err != nil {
			return err
		}
	}
	for _, e := range v.Posts {
		if err := d.outbox.Put(ctx, e); err != nil {
			return err
		}
	}
	d.over, d.drifts.found = nil, nil
	return d.drifts.keep(ctx, v, in)
}

// facts are what the verdict is decided from.
func (d *driver) facts(live v1alpha1.SourceStatus) (verdict.Input, error) {
	v, now, name := d.sync.opts.Store.View(), d.sync.opts.Now(), d.source.Name
	state, err := apply.Load(v, name)
	if err != nil {
		return verdict.Input{}, err
	}
	inventory, err := d.applier.Inventory(v, name)
	if err != nil {
		return verdict.Input{}, err
	}
	in := verdict.Input{
		Cluster: d.sync.opts.Cluster, Source: name, Folder: d.source.Spec.Folder != "", Posts: d.posts,
		Link:   func(revision string) string { return d.sync.opts.StatusURL(name, revision) },
		Passed: d.over, FetchError: d.fetchErr, ForgeError: d.outbox.Refused(name),
		Accepted: verdict.Accepted{Revision: state.Accepted, Applied: state.Applied, Healthy: state.Healthy, LeftOut: state.LeftOut,
			Warnings: state.Warnings,
			Waiting:  first(d.outcome.Waiting), Refused: first(d.outcome.Refused), Roll: report.Of(inventory, v, now).Roll},
		Live: live, Told: d.outbox.Told(name), Memory: d.memory, Now: now,
	}
	if told := d.outcome.Told; len(told) > 0 && in.Accepted.Roll.Drift == "" {
		in.Accepted.Roll.Drift = fmt.Sprintf("%s: %s", told[0].Key, told[0].Reason)
		if len(told) > 1 {
			in.Accepted.Roll.Drift += fmt.Sprintf(" (and %d more)", len(told)-1)
		}
	}
	if d.seen != nil {
		in.Seen = verdict.Seen{Revision: d.seen.ID, Decided: d.decided, Refusal: d.refusal, Held: d.held}
		if d.doubt.pending() {
			in.Seen.Doubt = d.doubt.String()
		}
	}
	return in, nil
}

func first(steps []plan.Step) *verdict.Step {
	if len(steps) == 0 {
		return nil
	}
	return &verdict.Step{Key: steps[0].Key, Reason: steps[0].Reason}
}

// write writes the Source's status, unless the object is another one by now.
func (d *driver) write(ctx context.Context, live *v1alpha1.Source, status v1alpha1.SourceStatus, next *later) error {
	want := live.DeepCopy()
	want.Status = status
	r := d.commit.Commit(ctx, store.Group{{Key: kinds.KeyOf(want), Object: want, If: kinds.Revision(live), Reason: "status"}})[0]
	switch {
	case errors.Is(r.Err, store.ErrConflict):
		next.at(d.sync.opts.Now().Add(passGap))
		return nil
	case r.Err != nil:
		return fmt.Errorf("cannot write the status of source %s: %w", d.source.Name, r.Err)
	}
	d.memory.Written = d.sync.opts.Now()
	_, err := d.sync.opts.Store.Wait(ctx, r.Revision)
	return err
}
