// Package proxy keeps a node's iptables rules equal to what its services want.
package proxy

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"lockstep/proxy/rules"
)

// Options of a Proxy. State is required.
type Options struct {
	// State returns everything that the rules depend on as it is now. It is called from Run's
	// goroutine, first when Run starts: start Run when the state is complete, or it removes the
	// rules of what is missing. The objects in it are only read.
	State func() rules.Input
	// Wake says that State may return something else. It carries nothing; one pending wake-up (a
	// capacity of 1) is enough. Nil: never after the start.
	Wake <-chan struct{}
	// Families whose rules are kept, each by itself. Nil: IPv4.
	Families []rules.Family
	// Drift, if set, is told of every repair, after it, from Run's goroutine.
	Drift func(Drift)
	// Changed, if set, is told that Health has changed, from Run's goroutine; also of the first success.
	Changed func()
	// Log may be nil: then nothing is logged.
	Log *slog.Logger
	// Registerer may be nil: then metrics are not registered.
	Registerer prometheus.Registerer
}

func (o Options) validate() error {
	if o.State == nil {
		return errors.New("cannot make a proxy: no State")
	}
	return nil
}

// watchInterval is how often a hand edit is looked for. Asking for the generation takes some
// microseconds; a second leaves most of the ten that a repair may take.
const watchInterval = time.Second

// ErrNotSynced says that no attempt to write the rules has ended yet.
var ErrNotSynced = errors.New("the rules were not written yet")

// Proxy is the one writer of a network namespace's LOCKSTEP- chains. It has a keeper for each family.
type Proxy struct {
	state      func() rules.Input
	wake       <-chan struct{}
	keepers    []*keeper
	watchEvery time.Duration
	moves      *moves // the keepers' too
}

// New returns a Proxy that does nothing until Run.
func New(opts Options) (*Proxy, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Families == nil {
		opts.Families = []rules.Family{rules.IPv4}
	}
	p := &Proxy{state: opts.State, wake: opts.Wake, watchEvery: watchInterval, moves: &moves{fd: -1}}
	m, seen := newMetrics(opts.Registerer), &transactions{}
	for _, f := range opts.Families {
		p.keepers = append(p.keepers, &keeper{
			family: f, kernel: host{f}, compiler: rules.NewCompiler(f), transactions: seen, moves: p.moves, metrics: m,
			log:   opts.Log.With("family", f.String()),
			drift: opts.Drift, changed: opts.Changed, spelled: map[rules.ChainID]spelling{}, health: ErrNotSynced,
			legacyReadEvery: legacyReadInterval,
		})
	}
	return p, nil
}

// Run keeps the rules until ctx ends, and then returns nil and leaves them in place: pods go on
// being reached while no agent runs. Failures are logged, retried and seen in Health.
func (p *Proxy) Run(ctx context.Context) error {
	p.moves.follow()
	defer p.moves.leave()
	p.each(ctx, (*keeper).write)
	ticker := time.NewTicker(p.watchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
			p.each(ctx, (*keeper).woken)
		case <-ticker.C:
			p.each(ctx, (*keeper).tick)
		}
	}
}

// each has every keeper do one thing, with the same state if any of them needs it.
func (p *Proxy) each(ctx context.Context, do func(*keeper, context.Context, func() rules.Input)) {
	state := sync.OnceValue(p.state)
	for _, k := range p.keepers {
		do(k, ctx, state)
	}
}

// Sync makes the kernel what State wants, once, for a caller that does not Run. What the last Sync
// wrote is taken for what the kernel has.
func (p *Proxy) Sync(ctx context.Context) error {
	p.each(ctx, (*keeper).write)
	return cmp.Or(ctx.Err(), p.Health())
}

// Health is nil if the rules of all families were right when last looked at, else why they may not be; it is ErrNotSynced
// before the first attempt. It may be called from any goroutine.
func (p *Proxy) Health() error {
	failed := make([]error, len(p.keepers))
	for i, k := range p.keepers {
		failed[i] = k.right()
	}
	return errors.Join(failed...)
}
