// Package proxy keeps a node's iptables rules equal to what its services want.
package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
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

const (
	// watchInterval is how often a hand edit is looked for. Asking for the generation takes some
	// microseconds; a second leaves most of the ten that a repair may take.
	watchInterval = time.Second
	// readShare bounds reading all rules to a part of the time: after a read that took d, the
	// next waits readShare times d. Reading 10,000 services takes about 1.4 s.
	readShare = 3
	// legacyReadInterval is how often rules are read where there is no generation to ask for; more
	// seldom, down to legacyReadMost, where a read takes more than a part in legacyReadShare of
	// the time. The most leaves time for the repair within ten seconds.
	legacyReadInterval = 2 * time.Second
	legacyReadMost     = 7 * time.Second
	legacyReadShare    = 30
	// retryFirst and retryMost bound the wait after a failed synchronisation.
	retryFirst = time.Second
	retryMost  = 30 * time.Second
	// displacedMost is how often within displacedWindow the proxy puts its jump first again: if
	// another program insists on being first, rewriting for ever would help nobody.
	displacedMost   = 5
	displacedWindow = time.Minute
)

// Proxy is the one writer of a network namespace's LOCKSTEP- chains.
type Proxy struct {
	opts     Options
	log      *slog.Logger
	metrics  *metrics
	compiler *rules.Compiler

	watchEvery, legacyReadEvery time.Duration

	// What Run's goroutine knows of the kernel.
	backend    *backend
	known      bool // applied is what the kernel had after our last write
	applied    map[rules.ChainID]*rules.Chain
	udp        rules.UDP
	flowsDone  bool        // the flows agree with udp
	last       rules.Input // what the link was made for
	generation uint32
	suspect    bool // somebody else wrote since the last read
	nextRead   time.Time
	nextTry    time.Time
	retry      time.Duration // 0: nothing failed
	spelled    map[rules.ChainID]spelling
	displaced  []time.Time

	mu     sync.Mutex
	health error
}

// spelling is how the kernel gives back a chain that it took: other versions of iptables may print
// a rule differently from how it was written.
type spelling struct {
	want *rules.Chain
	have []string
}

// ErrNotSynced says that no attempt to write the rules has ended yet.
var ErrNotSynced = errors.New("the rules were not written yet")

// New returns a Proxy that does nothing until Run.
func New(opts Options) (*Proxy, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	p := &Proxy{
		opts:     opts,
		log:      opts.Log,
		metrics:  newMetrics(opts.Registerer),
		compiler: rules.NewCompiler(rules.IPv4),
		spelled:  map[rules.ChainID]spelling{},
		health:   ErrNotSynced,

		watchEvery:      watchInterval,
		legacyReadEvery: legacyReadInterval,
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	return p, nil
}

// Run keeps the rules until ctx ends, and then returns nil and leaves them in place: pods go on
// being reached while no agent runs. Failures are logged, retried and seen in Health.
func (p *Proxy) Run(ctx context.Context) error {
	p.attempt(ctx, p.sync)
	ticker := time.NewTicker(p.watchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.opts.Wake:
			if p.retry == 0 || !time.Now().Before(p.nextTry) {
				p.attempt(ctx, p.sync)
			}
		case <-ticker.C:
			switch {
			case p.retry == 0:
				p.attempt(ctx, p.watch)
			case !time.Now().Before(p.nextTry):
				p.attempt(ctx, p.sync)
			}
		}
	}
}

// Sync makes the kernel what State wants, once, for a caller that does not Run. What the last Sync
// wrote is taken for what the kernel has.
func (p *Proxy) Sync(ctx context.Context) error {
	p.attempt(ctx, p.sync)
	return cmp.Or(ctx.Err(), p.Health())
}

// Health is nil if the rules were right when last looked at, else why they may not be; ErrNotSynced
// before the first attempt. It may be called from any goroutine.
func (p *Proxy) Health() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.health
}

// attempt runs one step and plans the next one if it failed. After a failure nothing is taken for
// known: the kernel is read again.
func (p *Proxy) attempt(ctx context.Context, step func(context.Context) error) {
	err := step(ctx)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		p.known = false
		p.retry = min(max(2*p.retry, retryFirst), retryMost)
		p.nextTry = time.Now().Add(p.retry)
		p.metrics.errors.Inc()
		p.log.Error("cannot synchronise rules", "error", err, "retry", p.retry)
	} else {
		p.retry = 0
	}
	p.mu.Lock()
	changed := (p.health == nil) != (err == nil) || errors.Is(p.health, ErrNotSynced)
	p.health = err
	p.mu.Unlock()
	if changed && p.opts.Changed != nil {
		p.opts.Changed()
	}
}

// sync makes the kernel what State wants.
func (p *Proxy) sync(ctx context.Context) error {
	start := time.Now()
	if p.backend == nil {
		b, err := detect(ctx, rules.IPv4)
		if err != nil {
			return err
		}
		p.backend = b
		p.log.Info("iptables backend chosen", "backend", b.name, "restore", b.restoring)
	}
	if p.applied != nil {
		if err := p.repairLink(); err != nil { // what is missing now, somebody took away
			return err
		}
	}
	in := p.opts.State()
	if err := p.link(in); err != nil {
		return err
	}
	want := p.compiler.Compile(in)
	if err := p.write(ctx, want.Chains); err != nil {
		return err
	}
	p.forgetFlows(want.UDP)
	p.metrics.synced(time.Since(start), want)
	return nil
}

// link makes the link as the input wants it.
func (p *Proxy) link(in rules.Input) error {
	start := time.Now()
	made, err := ensureLink(in)
	if err != nil {
		return err
	}
	if len(made) > 0 {
		p.log.Info("service link set up", "link", LinkName, "made", made)
	}
	p.last = in
	p.metrics.link.Observe(time.Since(start).Seconds())
	return nil
}

// write brings the chains to want: by the difference to what was applied where that is known, else
// to what is read.
func (p *Proxy) write(ctx context.Context, want map[rules.ChainID]*rules.Chain) error {
	var c change
	if p.known {
		// First what somebody else did, which would be lost as evidence, or fail the change.
		if err := p.check(ctx); err != nil {
			return err
		}
		c = between(p.applied, want)
	} else {
		have, _, err := p.observeOver(ctx, want)
		if err != nil {
			return err
		}
		c = toward(have, want, p.same)
	}
	if err := p.restore(ctx, c); err != nil {
		return err
	}
	p.applied, p.known = want, true
	return nil
}

// restore carries a change out and follows the generation: if it moved by more than our own
// transactions, somebody else wrote at the same time.
func (p *Proxy) restore(ctx context.Context, c change) error {
	if c.empty() {
		return nil
	}
	text, tables := c.text()
	before, err := p.readGeneration()
	if err != nil {
		return err
	}
	if before != p.generation {
		p.suspect = true
	}
	if err := p.backend.restore(ctx, text); err != nil {
		return fmt.Errorf("cannot write %d chains: %w", len(c.write)+len(c.remove), err)
	}
	after, err := p.readGeneration()
	if err != nil {
		return err
	}
	if after != before && after-before != tables {
		p.suspect = true
	}
	p.generation = after
	p.log.Debug("rules written", "chains", len(c.write), "removed", len(c.remove), "jumps", len(c.jumps), "bytes", len(text))
	return nil
}

// observe reads the kernel, having noted the generation before: what is written during the read
// is noticed later.
func (p *Proxy) observe(ctx context.Context) (observed, error) {
	start := time.Now()
	g, err := p.readGeneration()
	if err != nil {
		return observed{}, err
	}
	have, err := p.backend.observe(ctx)
	if err != nil {
		return observed{}, err
	}
	p.generation, p.suspect = g, false
	took := time.Since(start)
	wait := readShare * took
	if !p.backend.nft() {
		wait = min(max(legacyReadShare*took, p.legacyReadEvery), legacyReadMost)
	}
	p.nextRead = time.Now().Add(wait)
	p.metrics.reads.Observe(took.Seconds())
	return have, nil
}

// readGeneration is 0 where there is none.
func (p *Proxy) readGeneration() (uint32, error) {
	if !p.backend.nft() {
		return 0, nil
	}
	return generation()
}

// same tells whether a chain reads as it was written, or as the kernel spelled it before.
func (p *Proxy) same(want *rules.Chain, have []string) bool {
	if want.Equal(&rules.Chain{ChainID: want.ChainID, Rules: have}) {
		return true
	}
	s, ok := p.spelled[want.ChainID]
	return ok && s.want == want && slices.Equal(s.have, have)
}

// forgetFlows deletes stale UDP flows if the endpoints changed. A failure is not one of the rules:
// it is logged, and tried again after the next wake-up.
func (p *Proxy) forgetFlows(next rules.UDP) {
	if p.flowsDone && p.udp.Equal(next) {
		return
	}
	if p.udp.Empty() && next.Empty() {
		p.flowsDone = true
		return
	}
	local, err := localAddresses()
	n := 0
	if err == nil {
		n, err = forget(withVanished(p.udp, next), local)
	}
	p.metrics.flows.Add(float64(n))
	p.flowsDone = err == nil
	if err != nil {
		p.metrics.errors.Inc()
		p.log.Warn("stale UDP flows remain", "error", err)
		return
	}
	p.udp = next
	if n > 0 {
		p.log.Info("stale UDP flows deleted", "flows", n)
	}
}
