package sync

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"lockstep/kinds"
	"lockstep/kinds/drift"
	"lockstep/kinds/v1alpha1"
	"lockstep/store"
	"lockstep/store/view"
	"lockstep/sync/apply"
	"lockstep/sync/forge"
	"lockstep/sync/found"
	"lockstep/sync/source"
)

// fleet has a driver for every source while this process leads: they come and go with the Source objects.
type fleet struct {
	sync    *Sync
	applier *apply.Applier
	outbox  *forge.Outbox
	commit  store.Committer
	keeper  found.Keeper
	group   *errgroup.Group
	wake    chan struct{} // Source objects have changed

	crews   map[*place]*crew
	leaving map[string]bool // sources that are to be released

	mu  sync.Mutex
	all []*driver // of all crews
}

// crew follows the sources of one place.
type crew struct {
	place   *place
	drivers map[string]*driver
	stop    context.CancelFunc // nil before it works
	work    sync.WaitGroup
}

func newFleet(s *Sync, c store.Committer, g *errgroup.Group) *fleet {
	return &fleet{
		sync: s, commit: c, group: g, applier: s.applier(c), wake: make(chan struct{}, 1),
		keeper: found.Keeper{Store: s.opts.Store, Commit: c, Counts: s.opts.Drift, Now: s.opts.Now},
		crews:  map[*place]*crew{}, leaving: map[string]bool{},
		outbox: forge.NewOutbox(forge.Options{
			Store: s.opts.Store, Commit: c, Log: s.opts.Log, Now: s.opts.Now, Seed: s.opts.Seed,
			Registerer: s.opts.Registerer,
		}),
	}
}

// run keeps the fleet as the Source objects ask for until ctx ends.
func (f *fleet) run(ctx context.Context) error {
	begin, failed := true, failures(0)
	for {
		err := f.muster(ctx, begin)
		if ctx.Err() != nil {
			return nil
		}
		var again <-chan time.Time
		if err != nil {
			again = time.After(failed.next(ctx, f.sync.opts.Log, "cannot bring the sources in order", err))
		} else {
			if begin {
				f.sync.noteConfigured()
			}
			begin, failed = false, 0
		}
		select {
		case <-ctx.Done():
			return nil
		case <-f.wake:
		case <-again:
		}
	}
}

// muster makes the Source objects those that are configured, and the fleet that of the Source objects. What fails leaves
// the rest to be done all the same, and is to be tried again.
func (f *fleet) muster(ctx context.Context, begin bool) error {
	v := f.sync.opts.Store.View()
	known := slices.AppendSeq(apply.Known(v), maps.Keys(f.leaving))
	for _, d := range f.drivers() {
		known = append(known, d.source.Name)
	}
	r := f.sync.roster(v, known, begin)
	failure := f.write(ctx, r.Write)
	places := f.sync.places.follow(r.Follow)
	for p, c := range f.crews {
		if !slices.Contains(places, p) {
			c.stop()
			c.work.Wait()
			delete(f.crews, p)
		}
	}
	clear(f.leaving)
	for _, name := range r.Release {
		if err := f.release(ctx, name); err != nil {
			f.leaving[name], failure = true, cmp.Or(failure, err)
		}
	}
	if failure == nil {
		failure = f.remove(ctx, r.Remove)
	}
	f.tidy(places)
	for _, p := range places {
		if f.crews[p] == nil {
			f.crews[p] = f.crew(p)
		}
	}
	f.enlist() // before any begins to look: whoever has looked is told of every change
	for _, c := range f.crews {
		if c.stop == nil {
			f.begin(ctx, c)
		}
	}
	return failure
}

// tidy removes the clones of places that are no more.
func (f *fleet) tidy(places []*place) {
	if f.sync.opts.DataDir == "" {
		return
	}
	watchers := make([]source.Watcher, len(places))
	for i, p := range places {
		watchers[i] = p.watcher
	}
	if err := source.Tidy(f.sync.opts.DataDir, watchers); err != nil {
		f.sync.opts.Log.Error("cannot tidy the clones", "error", err)
	}
}

// crew returns the crew of a place, which does nothing yet.
func (f *fleet) crew(p *place) *crew {
	c := &crew{place: p, drivers: map[string]*driver{}}
	for _, src := range p.sources {
		c.drivers[src.Name] = newDriver(f, src, p.watcher, p.forges[src.Name] != nil)
	}
	return c
}

// begin has a crew work until ctx ends, or it is stopped.
func (f *fleet) begin(ctx context.Context, c *crew) {
	ctx, c.stop = context.WithCancel(ctx)
	run := func(task func(context.Context) error) {
		c.work.Add(1)
		f.group.Go(func() error {
			defer c.work.Done()
			return task(ctx)
		})
	}
	for name, d := range c.drivers {
		run(d.run)
		if to := c.place.forges[name]; to != nil {
			run(func(ctx context.Context) error { return f.outbox.Post(ctx, name, to) })
		}
	}
	run(func(ctx context.Context) error {
		return c.place.watcher.Run(ctx, func(u source.Update) { c.drivers[u.Source].inbox.update(u) })
	})
}

// enlist makes all drivers be told of changes.
func (f *fleet) enlist() {
	var all []*driver
	for _, c := range f.crews {
		all = slices.AppendSeq(all, maps.Values(c.drivers))
	}
	f.mu.Lock()
	f.all = all
	f.mu.Unlock()
}

func (f *fleet) drivers() []*driver {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.all
}

// dispatch tells the drivers which of their objects have changed, and the fleet that Source objects have.
func (f *fleet) dispatch(ctx context.Context, sub *store.Subscription) error {
	defer func() { sub.Close() }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case batch, ok := <-sub.C:
			if !ok {
				f.sync.opts.Log.Warn("changes were lost, all objects are looked at again")
				sub.Close()
				sub = f.sync.opts.Store.Subscribe("sync")
				f.ring()
				for _, d := range f.drivers() {
					d.inbox.everything()
				}
				continue
			}
			f.wokenBy(batch.Changes)
			muster := slices.ContainsFunc(batch.Changes, asksForMuster)
			if muster {
				f.ring()
			}
			found := foundOf(batch.Changes)
			for _, d := range f.drivers() {
				d.inbox.changes(batch.Changes)
				if of := found[d.source.Name]; len(of) > 0 {
					d.inbox.tell(of)
				}
				if muster {
					d.inbox.ring() // what was told of it may be gone
				}
			}
		}
	}
}

// foundOf is the drift that nodes have told by changes, by source.
func foundOf(changes []view.Change) map[string][]drift.Finding {
	out := map[string][]drift.Finding{}
	for _, c := range changes {
		for _, g := range found.Told(c) {
			if g.Source != "" {
				out[g.Source] = append(out[g.Source], g)
			}
		}
	}
	return out
}

func (f *fleet) ring() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// asksForMuster says whether a Source has come, gone or been specified anew; what is told of one changes all the time.
func asksForMuster(c view.Change) bool {
	before, _ := c.Old.(*v1alpha1.Source)
	after, _ := c.New.(*v1alpha1.Source)
	if before == nil && after == nil {
		return false
	}
	return before == nil || after == nil || !reflect.DeepEqual(before.Spec, after.Spec)
}

// write makes Source objects as they are configured.
func (f *fleet) write(ctx context.Context, sources []*v1alpha1.Source) error {
	var groups []store.Group
	for _, s := range sources {
		groups = append(groups, store.Group{{Key: kinds.KeyOf(s), Object: s, If: kinds.Revision(s), Reason: "configured"}})
	}
	return f.commitAll(ctx, groups, "cannot write source %s: %w", sources)
}

// remove deletes Source objects.
func (f *fleet) remove(ctx context.Context, sources []*v1alpha1.Source) error {
	var groups []store.Group
	for _, s := range sources {
		groups = append(groups, store.Group{{Key: kinds.KeyOf(s), If: store.Anyway, Reason: "no longer configured"}})
	}
	return f.commitAll(ctx, groups, "cannot remove source %s: %w", sources)
}

func (f *fleet) commitAll(ctx context.Context, groups []store.Group, format string, sources []*v1alpha1.Source) error {
	if len(groups) == 0 {
		return nil
	}
	var failure error
	newest := int64(0)
	for i, r := range f.commit.Commit(ctx, groups...) {
		newest = max(newest, r.Revision)
		if r.Err != nil && failure == nil {
			failure = fmt.Errorf(format, sources[i].Name, r.Err)
		}
	}
	if _, err := f.sync.opts.Store.Wait(ctx, newest); failure == nil {
		failure = err
	}
	return failure
}

// release forgets a source that nobody follows: its objects stay.
func (f *fleet) release(ctx context.Context, name string) error {
	if err := f.outbox.Forget(ctx, name); err != nil {
		return fmt.Errorf("cannot release source %s: %w", name, err)
	}
	if err := f.keeper.Forget(ctx, found.OfSource(name)); err != nil {
		return fmt.Errorf("cannot release source %s: %w", name, err)
	}
	// The inventory goes last: it is what a later leader knows the source by.
	if err := f.applier.Release(ctx, name); err != nil {
		return fmt.Errorf("cannot release source %s: %w", name, err)
	}
	gone := store.Write{Record: wakes.Gone(name), If: store.Anyway, Reason: "its source is followed no longer"}
	if err := f.commit.Commit(ctx, store.Group{gone})[0].Err; err != nil {
		return fmt.Errorf("cannot release source %s: %w", name, err)
	}
	f.sync.forget(name)
	f.sync.opts.Log.Info("a source is followed no longer, its objects stay and belong to nobody", "source", name)
	return nil
}
