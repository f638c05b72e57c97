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
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"lockstep/kinds"
	"lockstep/kinds/admission"
	"lockstep/kinds/strategy"
	"lockstep/kinds/v1alpha1"
	"lockstep/store"
	"lockstep/store/view"
	"lockstep/sync/apply"
	"lockstep/sync/found"
	"lockstep/sync/plan"
	"lockstep/sync/roster"
	"lockstep/sync/source"
	"lockstep/sync/source/clone"
)

// Options of a Sync. Store is required, and DataDir where a source is a Git repository.
type Options struct {
	// Sources are written as Source objects by whoever leads, in the place of those that were configured before. Other
	// Source objects are followed from when they come to when they go.
	Sources []v1alpha1.Source
	Store   store.Reader
	// Commit is the leader's; see Run.
	Commit store.Committer
	// Wake writes, where another process leads, that a webhook has come here: the leader looks then. Nil: only this one is woken.
	Wake store.Committer
	// Inventories may be those that others read, too. Nil: its own.
	Inventories *apply.Inventories
	// Shared says that other processes lead at other times: sources that only they are configured with stay. Nil: none does.
	Shared func() bool
	// Events may be nil: drift is logged and counted, and is no Kubernetes event.
	Events store.Recorder
	// Drift counts what differs though nobody pushed. Nil: nothing is counted.
	Drift *found.Counts
	// DataDir keeps clones, below git/; they may be deleted at any time while nothing runs.
	DataDir string
	// Cluster is part of the statuses' context, lockstep/<cluster>/<source>. Empty: "default".
	Cluster string
	// StatusURL is the page a status links to. Nil: none.
	StatusURL func(source, revision string) string
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
	opts    Options
	places  places
	metrics *metrics
	hooks   *hooks
	// accepting makes decisions about who owns an object one after the other.
	accepting sync.Mutex

	mu      sync.Mutex
	readers map[string]*reader // by source
	judged  map[string]bool    // sources of which a revision was read and decided on since this process leads
}

// New returns a Sync, or why the configured sources cannot be followed. It starts nothing.
func New(opts Options) (*Sync, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Shared == nil {
		opts.Shared = func() bool { return false }
	}
	if opts.Inventories == nil {
		opts.Inventories = &apply.Inventories{}
	}
	opts.Cluster = cmp.Or(opts.Cluster, "default")
	if opts.StatusURL == nil {
		opts.StatusURL = func(string, string) string { return "" }
	}
	named := map[string]bool{}
	for _, src := range opts.Sources {
		if _, err := usable(src); err != nil {
			return nil, err
		}
		if named[src.Name] {
			return nil, fmt.Errorf("cannot use source %s: two sources have that name", src.Name)
		}
		named[src.Name] = true
	}
	s := &Sync{opts: opts, metrics: newMetrics(opts.Registerer), readers: map[string]*reader{}, judged: map[string]bool{}}
	s.places.opts = source.Options{
		DataDir: opts.DataDir, Seed: opts.Seed, Log: opts.Log, Crew: clone.NewCrew(),
		Metrics: source.NewMetrics(opts.Registerer),
	}
	s.hooks = newHooks(s.watchers, opts.Log, s.metrics)
	s.hooks.elsewhere = s.wake
	return s, nil
}

// Sources are those that are followed, or will be by whoever leads: name and specification.
func (s *Sync) Sources() []v1alpha1.Source {
	return s.roster(s.opts.Store.View(), nil, false).Follow
}

func (s *Sync) roster(v *view.View, known []string, begin bool) roster.Roster {
	var dropped []string
	if begin {
		dropped = s.dropped()
	}
	return roster.Decide(roster.Input{
		Shared:     s.opts.Shared(),
		Dropped:    dropped,
		Configured: s.opts.Sources,
		Live:       slices.Collect(view.List[*v1alpha1.Source](v, "")),
		Known:      known,
		Begin:      begin,
	})
}

// watchers are those of all sources.
func (s *Sync) watchers() []source.Watcher {
	var out []source.Watcher
	for _, p := range s.places.of(s.Sources()) {
		out = append(out, p.watcher)
	}
	return out
}

// reader returns the reader of a source, which outlives its drivers; it has one user at a time.
func (s *Sync) reader(name string) *reader {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readers[name] == nil {
		s.readers[name] = newReader()
	}
	return s.readers[name]
}

// looked notes whether a revision of a source was read and decided on.
func (s *Sync) looked(name string, judged bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.judged[name] = judged
}

// Unsettled are the followed sources that were not read since this process leads, or of which no revision is carried out to its
// end, in order of their names.
func (s *Sync) Unsettled(v *view.View) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, src := range s.roster(v, nil, false).Follow {
		state, err := apply.Load(v, src.Name)
		if err != nil || !s.judged[src.Name] || state.Accepted == "" || state.Applied != state.Accepted {
			out = append(out, src.Name)
		}
	}
	slices.Sort(out)
	return out
}

// forget drops what is kept of a source that is gone.
func (s *Sync) forget(name string) {
	s.mu.Lock()
	delete(s.readers, name)
	delete(s.judged, name)
	s.mu.Unlock()
	s.metrics.forget(name)
}

// Hooks handles POST /hooks/git. It may be used before, during and after Run; a hook while nothing runs is remembered.
func (s *Sync) Hooks() http.Handler { return s.hooks }

// Run is Lead with the committer of the options.
func (s *Sync) Run(ctx context.Context) error { return s.Lead(ctx, s.opts.Commit) }

// Lead follows the sources and writes through c until ctx ends; it then returns nil, after everything it started has
// ended. Only one Lead may run at a time, in the whole cluster. It may be called again, after losing and winning.
func (s *Sync) Lead(ctx context.Context, c store.Committer) error {
	s.mu.Lock()
	clear(s.judged)
	s.mu.Unlock()
	s.places.lead(true)
	defer s.places.lead(false)
	g, ctx := errgroup.WithContext(ctx)
	f := newFleet(s, c, g)
	subscription := s.opts.Store.Subscribe("sync")
	g.Go(func() error { return f.dispatch(ctx, subscription) })
	g.Go(func() error { return f.run(ctx) })
	return g.Wait()
}

func (s *Sync) applier(c store.Committer) *apply.Applier {
	return apply.New(apply.Options{
		Store: s.opts.Store, Commit: c, Inventories: s.opts.Inventories, Rules: rules(), Events: s.opts.Events,
		Log: s.opts.Log, Now: s.opts.Now, Did: s.metrics.did,
	})
}

func rules() plan.Rules {
	return plan.Rules{
		Default:       strategy.Default,
		Admit:         admission.Admit,
		PrepareCreate: strategy.PrepareCreate,
		PrepareUpdate: strategy.PrepareUpdate,
		Delete:        func(o kinds.Object, now time.Time) (kinds.Object, bool) { return strategy.Delete(o, now, nil) },
	}
}

// Plan looks at a source now and returns what applying its newest revision would change; it changes nothing. The error
// has all problems of the revision, one a line.
func (s *Sync) Plan(ctx context.Context, name string) (*plan.Plan, error) {
	for _, w := range s.watchers() {
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
	watchers, err := source.Watchers([]v1alpha1.Source{spec}, source.Options{
		DataDir: dir,
		Seed:    s.opts.Seed,
		Log:     s.opts.Log,
		Crew:    s.places.opts.Crew,
	})
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
	read := newReader().read(ctx, rev, src.Spec.IgnoreKinds)
	if read.unread != nil {
		return nil, read.unread
	}
	if len(read.errors) > 0 {
		return nil, errors.New(lines(read.errors))
	}
	p, problems, err := s.decide(s.applier(nil), src, rev, read, true)
	if err != nil {
		return nil, err
	}
	if len(problems) > 0 {
		return nil, errors.New(lines(read.locate(problems)))
	}
	return p, nil
}

// decide plans a revision against the newest view, with the repair of drift if asked for.
func (s *Sync) decide(a *apply.Applier, src v1alpha1.Source, rev *source.Revision, read reading,
	drift bool) (*plan.Plan, plan.Problems, error) {
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
	for _, other := range s.Sources() {
		if other.Name != src.Name {
			others = append(others, other.Name)
		}
	}
	pushed := rules()
	pushed.Repair = true
	p, problems := plan.Decide(plan.Input{
		Source: src.Name,
		Revision: plan.Revision{ID: rev.ID, Author: rev.Author, LeftOut: read.set.LeftOut.String(), Folder: src.Spec.Folder != "",
			AllowPrune: src.Spec.Prune == "allow" || source.Trailer(rev.Message, "Lockstep-Prune", "allow")},
		Objects: read.objects, Inventory: inventory, Lost: lost, Others: others, Services: s.opts.Services, View: v, Rules: pushed,
		Now: s.opts.Now(), Drift: drift,
	})
	if p != nil {
		p.Warnings = read.place(p.Warnings, v1alpha1.MaxWarnings)
	}
	return p, problems, nil
}
