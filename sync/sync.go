// Package sync brings what Git states into the store, with the verdict back to Git.
package sync

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"lockstep/kinds"
	"lockstep/kinds/strategy"
	"lockstep/kinds/v1alpha1"
	"lockstep/store"
	"lockstep/store/view"
	"lockstep/sync/apply"
	"lockstep/sync/forge"
	"lockstep/sync/plan"
	"lockstep/sync/source"
	"lockstep/sync/source/clone"
)

// Options of a Sync. Store is required, and DataDir where a source is a Git repository.
type Options struct {
	Sources []v1alpha1.Source
	Store   store.Reader
	// Commit is the leader's; see Run.
	Commit store.Committer
	// Events may be nil: drift is logged and counted, and is no Kubernetes event.
	Events store.Recorder
	// DataDir keeps clones, below git/; they may be deleted at any time while nothing runs.
	DataDir string
	// Cluster is part of the statuses' context, lockstep/<cluster>/<source>. Empty: "default".
	Cluster string
	// StatusURL is the page a status links to. Nil: none.
	StatusURL func(source, revision string) string
	// Forges replaces the forges that the sources name, by source. Nil: none is replaced.
	Forges map[string]forge.Forge
	// Services are what services' addresses are allocated from, and what they cannot have; the zero value refuses no
	// address for where it is, but those of nodes.
	Services plan.Networks
	// Seed of all jitter.
	Seed uint64
	// Now is the clock of decisions. Nil: time.Now.
	Now func() time.Time
	Log *slog.Logger
	// Registerer may be nil: metrics are kept and not exported. Each Lead registers its outbox's metrics anew, so it must
	// bear a later collector replacing an equal earlier one.
	Registerer prometheus.Registerer
}

// Sync follows all sources.
type Sync struct {
	opts     Options
	crew     *clone.Crew
	watchers []source.Watcher
	forges   map[string]forge.Forge
	readers  map[string]*reader
	metrics  *metrics
	hooks    *hooks
	// accepting makes decisions about who owns an object one after the other.
	accepting sync.Mutex
}

// New returns a Sync, or why the sources cannot be followed. It starts nothing.
func New(opts Options) (*Sync, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	opts.Cluster = cmp.Or(opts.Cluster, "default")
	if opts.StatusURL == nil {
		opts.StatusURL = func(string, string) string { return "" }
	}
	crew := clone.NewCrew()
	watchers, err := source.Watchers(opts.Sources, opts.watching(crew))
	if err != nil {
		return nil, err
	}
	s := &Sync{opts: opts, crew: crew, watchers: watchers, forges: map[string]forge.Forge{}, readers: map[string]*reader{}, metrics: newMetrics(opts.Registerer)}
	for _, src := range opts.Sources {
		s.readers[src.Name] = newReader(src)
		f, err := forge.New(src)
		if replaced, ok := opts.Forges[src.Name]; ok {
			f, err = replaced, nil
		}
		if err != nil {
			return nil, err
		}
		if f != nil {
			s.forges[src.Name] = f
		}
	}
	s.hooks = newHooks(watchers, opts.Log, s.metrics)
	return s, nil
}

func (o Options) watching(crew *clone.Crew) source.Options {
	return source.Options{DataDir: o.DataDir, Seed: o.Seed, Log: o.Log, Registerer: o.Registerer, Crew: crew}
}

// Hooks handles POST /hooks/git. It may be used before, during and after Run; a hook while nothing runs is remembered.
func (s *Sync) Hooks() http.Handler { return s.hooks }

// Run is Lead with the committer of the options.
func (s *Sync) Run(ctx context.Context) error { return s.Lead(ctx, s.opts.Commit) }

// Lead follows the sources and writes through c until ctx ends; it then returns nil, after everything it started has
// ended. Only one Lead may run at a time, in the whole cluster. It may be called again, after losing and winning.
func (s *Sync) Lead(ctx context.Context, c store.Committer) error {
	outbox := forge.NewOutbox(forge.Options{Store: s.opts.Store, Commit: c, Forges: s.forges, Log: s.opts.Log, Now: s.opts.Now,
		Seed: s.opts.Seed, Registerer: s.opts.Registerer})
	applier := s.applier(c)
	if err := s.release(ctx, applier, outbox, c); err != nil && ctx.Err() == nil {
		s.opts.Log.Error("cannot release sources that are no longer configured", "error", err)
	}
	if s.opts.DataDir != "" {
		if err := source.Tidy(s.opts.DataDir, s.watchers); err != nil {
			s.opts.Log.Error("cannot tidy the clones", "error", err)
		}
	}
	subscription := s.opts.Store.Subscribe("sync")
	drivers := map[string]*driver{}
	var list []*driver
	for _, w := range s.watchers {
		for _, src := range w.Sources() {
			d := newDriver(s, src, w, applier, outbox, c)
			drivers[src.Name] = d
			list = append(list, d)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.dispatch(ctx, subscription, list) })
	g.Go(func() error { return outbox.Run(ctx) })
	for _, d := range list {
		g.Go(func() error { return d.run(ctx) })
	}
	for _, w := range s.watchers {
		g.Go(func() error {
			return w.Run(ctx, func(u source.Update) { drivers[u.Source].inbox.update(u) })
		})
	}
	return g.Wait()
}

func (s *Sync) applier(c store.Committer) *apply.Applier {
	return apply.New(apply.Options{Store: s.opts.Store, Commit: c, Rules: rules(), Events: s.opts.Events, Log: s.opts.Log, Now: s.opts.Now, Did: s.metrics.did})
}

func rules() plan.Rules {
	return plan.Rules{
		Default:       strategy.Default,
		PrepareCreate: strategy.PrepareCreate,
		PrepareUpdate: strategy.PrepareUpdate,
		Delete:        func(o kinds.Object, now time.Time) (kinds.Object, bool) { return strategy.Delete(o, now, nil) },
	}
}

// dispatch tells the drivers which of their objects have changed.
func (s *Sync) dispatch(ctx context.Context, sub *store.Subscription, drivers []*driver) error {
	defer func() { sub.Close() }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case batch, ok := <-sub.C:
			if !ok {
				s.opts.Log.Warn("changes were lost, all objects are looked at again")
				sub.Close()
				sub = s.opts.Store.Subscribe("sync")
				for _, d := range drivers {
					d.inbox.everything()
				}
				continue
			}
			for _, d := range drivers {
				d.inbox.changes(batch.Changes)
			}
		}
	}
}

// release forgets the sources that the store knows and the configuration does not: their objects stay.
func (s *Sync) release(ctx context.Context, a *apply.Applier, o *forge.Outbox, c store.Committer) error {
	configured := map[string]bool{}
	for _, src := range s.opts.Sources {
		configured[src.Name] = true
	}
	v := s.opts.Store.View()
	gone := map[string]bool{}
	for _, name := range apply.Known(v) {
		gone[name] = !configured[name]
	}
	for src := range view.List[*v1alpha1.Source](v, "") {
		gone[src.Name] = !configured[src.Name]
	}
	for name, is := range gone {
		if !is {
			continue
		}
		s.opts.Log.Info("a source is no longer configured, its objects stay and belong to nobody", "source", name)
		if err := errors.Join(a.Release(ctx, name), o.Forget(ctx, name)); err != nil {
			return fmt.Errorf("cannot release source %s: %w", name, err)
		}
		if live, ok := view.Get[*v1alpha1.Source](v, "", name); ok {
			if r := c.Commit(ctx, store.Group{{Key: kinds.KeyOf(live), If: store.Anyway, Reason: "no longer configured"}})[0]; r.Err != nil {
				return fmt.Errorf("cannot release source %s: %w", name, r.Err)
			}
		}
	}
	return nil
}

// Plan looks at a source now and returns what applying its newest revision would change; it changes nothing. The error
// has all problems of the revision, one a line.
func (s *Sync) Plan(ctx context.Context, name string) (*plan.Plan, error) {
	for _, w := range s.watchers {
		for _, src := range w.Sources() {
			if src.Name == name {
				return s.preview(ctx, src, w)
			}
		}
	}
	return nil, fmt.Errorf("cannot plan source %s: it is not configured", name)
}

// PlanAs plans as if the source that is configured under spec's name read from where spec says: what a working copy
// would change, before it is pushed. A name that is not configured plans a new source.
func (s *Sync) PlanAs(ctx context.Context, spec v1alpha1.Source) (*plan.Plan, error) {
	dir, err := os.MkdirTemp("", "lockstep-plan-") // a clone has one user at a time
	if err != nil {
		return nil, fmt.Errorf("cannot plan source %s: %w", spec.Name, err)
	}
	defer os.RemoveAll(dir)
	watchers, err := source.Watchers([]v1alpha1.Source{spec}, source.Options{DataDir: dir, Seed: s.opts.Seed, Log: s.opts.Log, Crew: s.crew})
	if err != nil {
		return nil, err
	}
	return s.preview(ctx, spec, watchers[0])
}

func (s *Sync) preview(ctx context.Context, src v1alpha1.Source, w source.Watcher) (*plan.Plan, error) {
	rev, err := w.Look(ctx, src.Name)
	if err != nil {
		return nil, err
	}
	read := newReader(src).read(ctx, rev)
	if read.unread != nil {
		return nil, read.unread
	}
	if len(read.errors) > 0 {
		return nil, errors.New(lines(read.errors))
	}
	p, problems, err := s.decide(s.applier(nil), src, rev, read.objects, true)
	if err != nil {
		return nil, err
	}
	if len(problems) > 0 {
		return nil, errors.New(lines(read.locate(problems)))
	}
	return p, nil
}

// decide plans a revision against the newest view, with the repair of drift if asked for.
func (s *Sync) decide(a *apply.Applier, src v1alpha1.Source, rev *source.Revision, objects []plan.Object, drift bool) (*plan.Plan, plan.Problems, error) {
	v := s.opts.Store.View()
	inventory, err := a.Inventory(v, src.Name)
	if err != nil {
		return nil, nil, err
	}
	lost, err := apply.Lost(v, src.Name, s.opts.Now())
	if err != nil {
		return nil, nil, err
	}
	var others []string
	for _, other := range s.opts.Sources {
		if other.Name != src.Name {
			others = append(others, other.Name)
		}
	}
	p, problems := plan.Decide(plan.Input{
		Source: src.Name,
		Revision: plan.Revision{ID: rev.ID, Author: rev.Author, Folder: src.Spec.Folder != "",
			AllowPrune: src.Spec.Prune == "allow" || source.Trailer(rev.Message, "Lockstep-Prune", "allow")},
		Objects: objects, Inventory: inventory, Lost: lost, Others: others, Services: s.opts.Services, View: v, Rules: rules(), Now: s.opts.Now(), Drift: drift,
	})
	return p, problems, nil
}
