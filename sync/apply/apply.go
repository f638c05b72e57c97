// Package apply carries plans out: the inventory first, then the objects, resumable after a kill at any write.
package apply

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"

	"lockstep/internal/sleep"
	"lockstep/kinds"
	"lockstep/store"
	"lockstep/store/view"
	"lockstep/sync/plan"
)

const (
	// sourceTable has one row a source.
	sourceTable view.Table[State] = "source"
	// stagedTable has inventory entries that are to replace those of plan.Inventory once the revision is accepted.
	stagedTable view.Table[plan.Desired] = "staged"

	// groupBytes bounds the data of one transaction, well below etcd's 1.5 MiB with its keys and the objects' encoding.
	groupBytes = 700 << 10
	// groupWrites bounds the writes of one transaction: the records of a revision and the source's own.
	groupWrites = 100
	// freeWrites are what a transaction has left for the source's own: its state, and what it lost lately.
	freeWrites = 20
	// showTime is what the view gets to show the change that a write conflicted with.
	showTime = 20 * time.Millisecond
	// batch is how many steps are written before the view is waited for: some hundred milliseconds of etcd's work, after
	// which a deposed leader or a conflict is noticed.
	batch = 250
	// rounds is how often one call decides anew after conflicts with other writers.
	rounds = 8
)

// State is what is known of a source beside its inventory.
type State struct {
	// Accepted is the revision whose objects the inventory has, Applied the one that was carried out to the end.
	Accepted string `json:"accepted,omitempty"`
	Author   string `json:"author,omitempty"`
	Applied  string `json:"applied,omitempty"`
	// LeftOut words how many objects of Accepted the source skips, and of which kinds.
	LeftOut string `json:"leftOut,omitempty"`
	// Warnings are those of the plan of Accepted, as they are shown.
	Warnings []string `json:"warnings,omitempty"`
	// Healthy is the revision that was healthy at least once: what it loses later is drift.
	Healthy string `json:"healthy,omitempty"`
	// Held is the newest revision that was held, HeldFor why: what was held stays so, also once the losses before it no
	// longer count, and after a restart.
	Held    string `json:"held,omitempty"`
	HeldFor string `json:"heldFor,omitempty"`
	// Staged says that the staged entries belong to Accepted and have not all been moved into the inventory.
	Staged bool `json:"staged,omitempty"`
}

// Options of an Applier. Rules, Store and Commit are required.
type Options struct {
	Store  store.Reader
	Commit store.Committer
	Rules  plan.Rules
	// Inventories may be those that others read, too. Nil: the applier's own.
	Inventories *Inventories
	// Events may be nil: drift is logged and counted only.
	Events store.Recorder
	Log    *slog.Logger
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
	// Did is told of every step that was carried out; it may be nil.
	Did func(source string, step plan.Step)
}

// Applier carries plans out. Any number of goroutines may use one, each for a source of its own.
type Applier struct {
	opts Options
}

// New returns an applier.
func New(opts Options) *Applier {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Inventories == nil {
		opts.Inventories = &Inventories{}
	}
	if opts.Did == nil {
		opts.Did = func(string, plan.Step) {}
	}
	return &Applier{opts: opts}
}

// Load returns a source's state; the zero State where nothing was ever accepted.
func Load(v *view.View, source string) (State, error) {
	row, _, err := sourceTable.Get(v, source)
	return row.Value, err
}

// Mark changes a source's state by f, if f changes it.
func (a *Applier) Mark(ctx context.Context, source string, f func(*State)) error {
	before, err := Load(a.opts.Store.View(), source)
	if err != nil {
		return err
	}
	after := before
	f(&after)
	if reflect.DeepEqual(after, before) {
		return nil
	}
	_, err = a.commit(ctx, store.Group{put(sourceTable, source, after)})
	return err
}

// Outcome is what converging came to.
type Outcome struct {
	// Waiting and Refused are the steps that could not be done, with their reasons.
	Waiting, Refused []plan.Step
	// Told are the steps that would repair what nobody pushed, and are not taken until somebody does.
	Told []plan.Step
	// Drifted are the steps that repaired what nobody pushed.
	Drifted []plan.Step
}

// Done says that every object is as stated.
func (o Outcome) Done() bool { return len(o.Waiting) == 0 && len(o.Refused) == 0 }

// Converge makes the store as a source's inventory states it. With keys it looks only at those objects and at what is
// pending; nil looks at all. Errors are transient: calling it again goes on where it stopped.
func (a *Applier) Converge(ctx context.Context, source string, keys map[kinds.Key]bool) (Outcome, error) {
	var out Outcome
	if err := a.Finish(ctx, source); err != nil {
		return out, err
	}
	state, err := Load(a.opts.Store.View(), source)
	if err != nil {
		return out, err
	}
	rules := a.opts.Rules
	rules.Repair = state.Applied != state.Accepted // a push puts right what was only told until then
	stuck := map[kinds.Key]plan.Step{}
	look := func(d plan.Desired) bool { return keys == nil || keys[d.Key] || d.State != plan.Applied }
	for range rounds {
		inventory, err := a.Inventory(a.opts.Store.View(), source)
		if err != nil {
			return out, err
		}
		along := plan.Along(inventory, a.opts.Store.View())
		var entries []plan.Desired
		for _, d := range inventory {
			if look(d) || along[d.Key] {
				entries = append(entries, d)
			}
		}
		steps := plan.Reconcile(entries, a.opts.Store.View(), rules, a.opts.Now())
		out.Waiting, out.Refused, out.Told = nil, nil, nil
		var todo []plan.Step
		for _, s := range steps {
			if failed, ok := stuck[s.Key]; ok {
				s = failed
			}
			switch s.Verb {
			case plan.Wait:
				out.Waiting = append(out.Waiting, s)
			case plan.Tell:
				out.Told = append(out.Told, s)
			case plan.Refuse:
				out.Refused = append(out.Refused, s)
			default:
				todo = append(todo, s)
			}
		}
		if len(todo) == 0 {
			return out, a.applied(ctx, source, out)
		}
		again, err := a.carryOut(ctx, source, todo, stuck, &out)
		if err != nil {
			return out, err
		}
		for _, s := range out.Told { // they differ still
			again[s.Key] = true
		}
		look = func(d plan.Desired) bool { return again[d.Key] || d.State != plan.Applied }
	}
	return out, fmt.Errorf("cannot apply source %s: %w", source, store.ErrConflict)
}

// applied notes that the accepted revision was carried out to the end.
func (a *Applier) applied(ctx context.Context, source string, out Outcome) error {
	if !out.Done() {
		return nil
	}
	return a.Mark(ctx, source, func(s *State) { s.Applied = s.Accepted })
}

// carryOut writes steps in order, each object together with its inventory entry, and returns the keys that are to be
// decided anew because they had changed. Those that etcd can never take, or that are there and cannot be read, become refused, in stuck.
func (a *Applier) carryOut(ctx context.Context, source string, steps []plan.Step, stuck map[kinds.Key]plan.Step,
	out *Outcome) (map[kinds.Key]bool, error) {
	again := map[kinds.Key]bool{}
	for len(steps) > 0 {
		n := min(batch, len(steps))
		groups := make([]store.Group, n)
		for i, s := range steps[:n] {
			groups[i] = group(s)
		}
		newest := int64(0)
		for i, r := range a.opts.Commit.Commit(ctx, groups...) {
			step := steps[i]
			switch {
			case r.Err == nil:
				newest = max(newest, r.Revision)
				a.did(source, step, out)
			case errors.Is(r.Err, store.ErrConflict):
				again[step.Key] = true
			case errors.Is(r.Err, store.ErrTooLarge), errors.Is(r.Err, store.ErrUnreadable):
				step.Verb, step.Reason, step.Object = plan.Refuse, r.Err.Error(), nil
				stuck[step.Key], again[step.Key] = step, true
			default:
				return nil, fmt.Errorf("cannot %s %v: %w", step.Verb, step.Key, r.Err)
			}
		}
		if _, err := a.opts.Store.Wait(ctx, newest); err != nil {
			return nil, err
		}
		steps = steps[n:]
	}
	if len(again) > 0 && !sleep.For(ctx, showTime) {
		return nil, ctx.Err()
	}
	return again, nil
}

// group is the transaction of one step.
func group(s plan.Step) store.Group {
	entry := s.Entry
	switch {
	case entry.State == plan.Pruning:
		entry = plan.Desired{}
	case s.Verb == plan.Replace:
		entry.State, entry.Before, entry.Ended = plan.Pending, nil, "" // it is to be created
	default:
		entry.State, entry.Before = plan.Applied, nil
	}
	if s.Verb == plan.Create {
		entry.Ended = ""
	}
	var g store.Group
	switch s.Verb {
	case plan.Create:
		g = append(g, store.Write{Key: s.Key, Object: s.Object, If: 0, Reason: s.Reason})
	case plan.Update, plan.Prune, plan.Replace, plan.Remove:
		g = append(g, store.Write{Key: s.Key, Object: s.Object, If: kinds.Revision(s.Live), Reason: s.Reason})
	}
	if s.Entry.State == plan.Applied && s.Verb != plan.Keep && s.Verb != plan.Replace {
		return g
	}
	if entry.Source == "" {
		return append(g, drop(plan.Inventory, s.Entry.RecordName()))
	}
	return append(g, put(plan.Inventory, entry.RecordName(), entry))
}

func (a *Applier) did(source string, s plan.Step, out *Outcome) {
	a.opts.Did(source, s)
	if s.Verb == plan.Keep {
		return
	}
	if !s.Drift {
		a.opts.Log.Info("object changed", "source", source, "object", s.Key.String(), "verb", s.Verb, "reason", s.Reason,
			"commit", s.Entry.Commit)
		return
	}
	out.Drifted = append(out.Drifted, s)
	a.opts.Log.Warn("drift repaired", "source", source, "object", s.Key.String(), "verb", s.Verb, "reason", s.Reason, "file",
		s.Entry.File, "line", s.Entry.Line)
	if a.opts.Events != nil {
		about := s.Object
		if s.Live != nil {
			about = s.Live
		}
		a.opts.Events.Event("lockstep-sync", about, corev1.EventTypeWarning, "DriftRepaired", s.Reason)
	}
}

func put[T any](table view.Table[T], name string, value T) store.Write {
	return store.Write{Record: table.Record(name, value), If: store.Anyway, Reason: "inventory"}
}

func drop[T any](table view.Table[T], name string) store.Write {
	return store.Write{Record: table.Gone(name), If: store.Anyway, Reason: "inventory"}
}

// commit writes groups and waits until the view has them; the first error of any is returned, with how many were written
// lost: what was not written is written by the next attempt.
func (a *Applier) commit(ctx context.Context, groups ...store.Group) (int64, error) {
	newest := int64(0)
	var failure error
	for _, r := range a.opts.Commit.Commit(ctx, groups...) {
		newest = max(newest, r.Revision)
		if r.Err != nil && failure == nil {
			failure = r.Err
		}
	}
	if failure != nil {
		return newest, fmt.Errorf("cannot write the inventory: %w", failure)
	}
	_, err := a.opts.Store.Wait(ctx, newest)
	return newest, err
}
