// Package engine runs control loops: it wakes their keys, lets them decide, checks the decision and carries it out.
package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"k8s.io/utils/clock"

	"lockstep/reconcilers/loop"
	"lockstep/store"
	"lockstep/store/view"
)

// Options are what an engine works with. Store, Commit and Events are required.
type Options struct {
	Store  store.Reader
	Commit store.Committer
	Events store.Recorder
	// Rules are Kubernetes' rules for objects; zero: those of package kinds/strategy.
	Rules Rules
	// Clock tells the time and sleeps; nil: the machine's.
	Clock clock.Clock
	// Seed is where generated names start from; zero: a random one.
	Seed uint64
	// Workers bounds how many keys are worked on at once; zero: 8 a CPU, since a worker mostly waits for etcd, and what
	// they write at the same time shares a transaction.
	Workers int
	// Log is where bugs and failures go; nil: nowhere.
	Log *slog.Logger
	// Registerer takes the engine's metrics; nil: nobody sees them.
	Registerer prometheus.Registerer
}

// Reconciler is a control loop, as package loop declares it.
type Reconciler = loop.Reconciler

// Engine runs reconcilers against a store.
type Engine struct {
	Options
	loops   []Reconciler
	sees    []view.Scope
	writes  []writeRules
	turns   atomic.Uint64 // each prepares with a seed of its own
	metrics *metrics
	queue   *queue
	ledger  ledger
	// refusals is owned by whoever owns the queue.
	refusals refusals
}

// New returns an engine for these reconcilers. It starts nothing. It panics where two have the same name, or write one field
// without both declaring it shared, or one's declaration is incomplete: that is a mistake in the program.
func New(loops []Reconciler, o Options) *Engine {
	if o.Store == nil || o.Commit == nil || o.Events == nil {
		panic("engine: Store, Commit and Events are required")
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Workers == 0 {
		o.Workers = 8 * runtime.GOMAXPROCS(0)
	}
	if o.Seed == 0 {
		o.Seed = rand.Uint64()
	}
	o.Rules = o.Rules.orKubernetes()
	e := &Engine{Options: o, loops: slices.Clone(loops), queue: newQueue(), refusals: refusals{}}
	seen := map[string]bool{}
	for _, r := range loops {
		switch {
		case r.Name == "" || r.Component == "" || r.Decide == nil:
			panic(fmt.Sprintf("engine: reconciler %q declares no name, component or Decide", r.Name))
		case seen[r.Name]:
			panic(fmt.Sprintf("engine: two reconcilers are named %q", r.Name))
		case r.Single && r.Owner != nil:
			panic(fmt.Sprintf("engine: reconciler %q decides about the whole cluster and about %s", r.Name, r.Owner.Kind))
		}
		seen[r.Name] = true
		e.sees = append(e.sees, r.Sees())
		e.writes = append(e.writes, newWriteRules(r))
	}
	if quarrels := quarrels(loops); len(quarrels) > 0 {
		panic("engine: " + strings.Join(quarrels, "; "))
	}
	e.metrics = newMetrics(o.Registerer)
	return e
}

// Run works until ctx ends and then returns nil, after its workers have ended. It decides nothing before the store's
// first view is complete.
func (e *Engine) Run(ctx context.Context) error {
	if _, err := e.Store.Wait(ctx, 1); err != nil {
		return nilWhenDone(ctx, err)
	}
	work, done := make(chan item), make(chan finished)
	g, gctx := errgroup.WithContext(ctx)
	for range e.Workers {
		g.Go(func() error {
			for it := range work {
				done <- finished{it, e.turn(gctx, it)}
			}
			return nil
		})
	}
	g.Go(func() error {
		defer close(work)
		return e.dispatch(gctx, work, done)
	})
	return nilWhenDone(ctx, g.Wait())
}

// done takes a key back from who worked on it.
func (e *Engine) done(it item, o outcome) {
	e.refusals.note(it, o.refused)
	e.queue.done(it, o, e.Clock.Now())
}

// finished tells what became of an item that a worker had.
type finished struct {
	item
	outcome
}

// dispatch owns the queue: it feeds the workers until ctx ends, and returns when none of them has work any more.
func (e *Engine) dispatch(ctx context.Context, work chan<- item, done <-chan finished) error {
	sub := e.Store.Subscribe("reconcilers")
	defer func() { sub.Close() }()
	e.resync()
	e.reached(e.Store.View().Revision())

	running := 0
	timer := e.Clock.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		now := e.Clock.Now()
		if next, ok := e.queue.promote(now); ok {
			timer.Reset(next.Sub(now))
		}
		e.metrics.depth.Set(float64(e.queue.depth()))
		offer := work
		it, ok := e.queue.peek()
		if !ok {
			offer = nil
		}
		select {
		case <-ctx.Done():
		case offer <- it:
			e.metrics.latency.WithLabelValues(e.loops[it.loop].Name).Observe(now.Sub(e.queue.take(it)).Seconds())
			running++
		case f := <-done:
			running--
			e.done(f.item, f.outcome)
			e.reached(e.Store.View().Revision())
		case batch, open := <-sub.C:
			if !open {
				// The queue of changes ran over: what was lost is unknown, so everything is looked at again.
				e.Log.Warn("changes were lost, looking at every object again")
				sub.Close()
				sub = e.Store.Subscribe("reconcilers")
				e.resync()
				e.reached(e.Store.View().Revision())
				continue
			}
			e.wake(batch)
			e.reached(batch.View.Revision())
		case <-timer.C():
		}
	}
	for ; running > 0; running-- {
		<-done
	}
	return ctx.Err()
}

// reached tells that all views from now on have a revision.
func (e *Engine) reached(revision int64) {
	e.queue.reached(revision)
	e.ledger.reached(revision)
}

func nilWhenDone(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
