package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"lockstep/proxy/rules"
)

const (
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

// keeper keeps the rules of one family, with what belongs to them. All but right is for Run's goroutine.
type keeper struct {
	family       rules.Family
	kernel       kernel
	compiler     *rules.Compiler
	transactions *transactions // of all families
	moves        *moves        // of all families
	metrics      *metrics
	log          *slog.Logger
	drift        func(Drift) // nil: nobody is told
	changed      func()      // nil: nobody is told

	legacyReadEvery time.Duration

	tables    tables // nil until they are chosen
	known     bool   // applied is what the kernel had after our last write
	applied   map[rules.ChainID]*rules.Chain
	udp       rules.UDP
	flowsDone bool        // the flows agree with udp
	last      rules.Input // what the link was made for
	moved     int         // the count of moves up to which the link was found right
	read      int         // the foreign transactions that the last read has seen
	suspect   bool        // the rules are to be read again whatever the transactions say
	nextRead  time.Time
	nextTry   time.Time
	retry     time.Duration // 0: nothing failed
	spelled   map[rules.ChainID]spelling
	displaced []time.Time

	mu     sync.Mutex
	health error
}

// spelling is how the kernel gives back a chain that it took: other versions of iptables may print
// a rule differently from how it was written.
type spelling struct {
	want *rules.Chain
	have []string
}

// write makes the kernel what state wants.
func (k *keeper) write(ctx context.Context, state func() rules.Input) {
	k.attempt(ctx, func(ctx context.Context) error { return k.sync(ctx, state) })
}

// woken writes what state wants now, unless it failed before and is to be left alone yet.
func (k *keeper) woken(ctx context.Context, state func() rules.Input) {
	if k.retry == 0 || !time.Now().Before(k.nextTry) {
		k.write(ctx, state)
	}
}

// tick looks for hand edits, or tries again what failed.
func (k *keeper) tick(ctx context.Context, state func() rules.Input) {
	if k.retry == 0 {
		k.attempt(ctx, k.watch)
		return
	}
	k.woken(ctx, state)
}

// right is nil if the rules were right when last looked at. It may be called from any goroutine.
func (k *keeper) right() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.health
}

// attempt runs one step and plans the next one if it failed. After a failure nothing is taken for
// known: the kernel is read again.
func (k *keeper) attempt(ctx context.Context, step func(context.Context) error) {
	err := step(ctx)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		k.known = false
		k.retry = min(max(2*k.retry, retryFirst), retryMost)
		k.nextTry = time.Now().Add(k.retry)
		k.metrics.errors.Inc()
		k.log.Error("cannot synchronise rules", "error", err, "retry", k.retry)
	} else {
		k.retry = 0
	}
	k.mu.Lock()
	changed := (k.health == nil) != (err == nil) || errors.Is(k.health, ErrNotSynced)
	k.health = err
	k.mu.Unlock()
	if changed && k.changed != nil {
		k.changed()
	}
}

// sync makes the kernel what State wants.
func (k *keeper) sync(ctx context.Context, state func() rules.Input) error {
	start := time.Now()
	if k.tables == nil {
		t, err := k.kernel.open(ctx)
		if err != nil {
			return err
		}
		k.tables = t
		k.log.Info("iptables backend chosen", "backend", t.String())
	}
	if k.applied != nil {
		if err := k.repairLink(); err != nil { // what is missing now, somebody took away
			return err
		}
	}
	in := state()
	if err := k.link(in); err != nil {
		return err
	}
	want := k.compiler.Compile(in)
	if err := k.apply(ctx, want.Chains); err != nil {
		return err
	}
	k.forgetFlows(want.UDP)
	k.metrics.synced(time.Since(start), k.family, want)
	return nil
}

// link makes the link as the input wants it.
func (k *keeper) link(in rules.Input) error {
	start := time.Now()
	made, err := k.kernel.ensureLink(in)
	if err != nil {
		return err
	}
	if len(made) > 0 {
		k.log.Info("service link set up", "link", LinkName, "made", made)
	}
	k.last = in
	k.metrics.link.Observe(time.Since(start).Seconds())
	return nil
}

// apply brings the chains to want: by the difference to what was applied where that is known, else
// to what is read.
func (k *keeper) apply(ctx context.Context, want map[rules.ChainID]*rules.Chain) error {
	var c change
	if k.known {
		// First what somebody else did, which would be lost as evidence, or fail the change.
		if err := k.check(ctx); err != nil {
			return err
		}
		c = between(k.applied, want)
	} else {
		have, _, err := k.observeOver(ctx, want)
		if err != nil {
			return err
		}
		c = toward(have, want, k.same)
	}
	if err := k.restore(ctx, c); err != nil {
		return err
	}
	k.applied, k.known = want, true
	return nil
}

// restore carries a change out and follows the transactions: if there were more than our own, somebody else wrote at the same
// time.
func (k *keeper) restore(ctx context.Context, c change) error {
	if c.empty() {
		return nil
	}
	text, tables := c.text()
	if err := k.look(); err != nil {
		return err
	}
	if err := k.tables.restore(ctx, text); err != nil {
		return fmt.Errorf("cannot write %d chains: %w", len(c.write)+len(c.remove), err)
	}
	if k.tables.counts() {
		number, err := k.tables.generation()
		if err != nil {
			return err
		}
		k.transactions.made(number, tables)
	}
	k.log.Debug("rules written", "chains", len(c.write), "removed", len(c.remove), "jumps", len(c.jumps), "bytes", len(text))
	return nil
}

// look takes in what transactions there were.
func (k *keeper) look() error {
	if !k.tables.counts() {
		return nil
	}
	number, err := k.tables.generation()
	if err == nil {
		k.transactions.seen(number)
	}
	return err
}

// doubts says whether somebody else may have written since the last read.
func (k *keeper) doubts() bool { return k.suspect || k.read != k.transactions.foreign }

// observe reads the kernel, having noted the transactions before: what is written during the read is noticed later.
func (k *keeper) observe(ctx context.Context) (observed, error) {
	start := time.Now()
	if err := k.look(); err != nil {
		return observed{}, err
	}
	before := k.transactions.foreign
	have, err := observe(ctx, k.tables)
	if err != nil {
		return observed{}, err
	}
	k.read, k.suspect = before, false
	took := time.Since(start)
	wait := readShare * took
	if !k.tables.counts() {
		wait = min(max(legacyReadShare*took, k.legacyReadEvery), legacyReadMost)
	}
	k.nextRead = time.Now().Add(wait)
	k.metrics.reads.Observe(took.Seconds())
	return have, nil
}

// same tells whether a chain reads as it was written, or as the kernel spelled it before.
func (k *keeper) same(want *rules.Chain, have []string) bool {
	if want.Equal(&rules.Chain{ChainID: want.ChainID, Rules: have}) {
		return true
	}
	s, ok := k.spelled[want.ChainID]
	return ok && s.want == want && slices.Equal(s.have, have)
}

// forgetFlows deletes stale UDP flows if the endpoints changed. A failure is not one of the rules:
// it is logged, and tried again after the next wake-up.
func (k *keeper) forgetFlows(next rules.UDP) {
	if k.flowsDone && k.udp.Equal(next) {
		return
	}
	if k.udp.Empty() && next.Empty() {
		k.flowsDone = true
		return
	}
	n, err := k.kernel.forget(withVanished(k.udp, next))
	k.metrics.flows.Add(float64(n))
	k.flowsDone = err == nil
	if err != nil {
		k.metrics.errors.Inc()
		k.log.Warn("stale UDP flows remain", "error", err)
		return
	}
	k.udp = next
	if n > 0 {
		k.log.Info("stale UDP flows deleted", "flows", n)
	}
}
