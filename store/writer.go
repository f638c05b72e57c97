package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"lockstep/internal/sleep"
)

const (
	// txnsInFlight is how many transactions are with etcd at once. Etcd applies them one after the other; a few keep it
	// busy while answers travel, and more only make each smaller.
	txnsInFlight = 8
	// maxPending bounds the groups that wait for a transaction; callers over it wait. About a second's worth of writes.
	maxPending = 16384
	// maxScan bounds how many waiting groups are looked at for one transaction, when many wait for busy keys.
	maxScan = 2048
	// txnTimeout is longer than etcd's own for a request (5 s plus elections), so that etcd usually answers itself.
	txnTimeout = 8 * time.Second
	// patience is how long a group may wait to be sent before the caller is told that etcd does not take writes.
	patience = 10 * time.Second
)

// writer merges the groups of all callers into transactions.
type writer struct {
	kv      clientv3.KV
	metrics *metrics
	// probe is a linearizable read: once it returns nil, whatever was sent before is decided or lost for good.
	probe func(context.Context) error
	// epoch ends where what was sent may never be answered.
	epoch func() context.Context
	// onAnswer is told of etcd's answer to every transaction, nil when it took it.
	onAnswer func(error)

	room *semaphore.Weighted // one for each pending unit

	mu      sync.Mutex
	wake    *sync.Cond
	pending []*unit
	busy    map[string]struct{} // keys in a transaction without a known outcome
	stopped bool
}

// call is one caller waiting for the results of its units.
type call struct {
	mu      sync.Mutex
	results []Result
	missing int
	done    chan struct{}
}

func newWriter(kv clientv3.KV, m *metrics, probe func(context.Context) error, onAnswer func(error)) *writer {
	w := &writer{
		kv: kv, metrics: m, probe: probe, epoch: context.Background, onAnswer: onAnswer,
		room: semaphore.NewWeighted(maxPending), busy: map[string]struct{}{},
	}
	w.wake = sync.NewCond(&w.mu)
	return w
}

// run sends transactions until ctx ends, then fails what still waits.
func (w *writer) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.stopped = true
		w.wake.Broadcast()
	})
	defer stop()
	var senders sync.WaitGroup
	for range txnsInFlight {
		senders.Go(func() {
			for units := w.take(); units != nil; units = w.take() {
				w.send(ctx, units)
			}
		})
	}
	senders.Wait()
	w.mu.Lock()
	rest := w.pending
	w.pending = nil
	w.mu.Unlock()
	for _, u := range rest {
		w.answer(u, Result{Err: fmt.Errorf("%w: the store is closed", ErrUnavailable)})
	}
}

// commit queues the units as they come and waits for their results: the first are on their way while later ones are
// still being compiled. A group that yields no unit has its result already.
func (w *writer) commit(ctx context.Context, units iter.Seq[*unit], c *call) []Result {
	ctx, cancel := context.WithTimeoutCause(ctx, patience+txnTimeout, ErrUnavailable)
	defer cancel()
	for u := range units {
		if err := w.room.Acquire(ctx, 1); err != nil {
			c.set(u.index, Result{Err: whyNotSent(ctx)})
			continue
		}
		w.queue(u)
	}
	slow := time.NewTimer(patience)
	defer slow.Stop()
	select {
	case <-c.done:
		return c.results
	case <-slow.C:
		w.withdraw(c, ErrUnavailable)
	case <-ctx.Done():
		w.withdraw(c, whyNotSent(ctx))
	}
	select {
	case <-c.done:
		return c.results
	case <-ctx.Done():
		return c.abandon(fmt.Errorf("%w: %w", ErrUnknown, context.Cause(ctx)))
	}
}

func whyNotSent(ctx context.Context) error {
	if cause := context.Cause(ctx); errors.Is(cause, ErrUnavailable) {
		return cause
	}
	return ctx.Err()
}

func (w *writer) queue(u *unit) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		w.answer(u, Result{Err: fmt.Errorf("%w: the store is closed", ErrUnavailable)})
		return
	}
	w.pending = append(w.pending, u)
	w.metrics.pending.Set(float64(len(w.pending)))
	w.wake.Signal()
}

// withdraw fails the units of a call that are not sent yet.
func (w *writer) withdraw(c *call, err error) {
	w.mu.Lock()
	var mine []*unit
	kept := w.pending[:0]
	for _, u := range w.pending {
		if u.call == c {
			mine = append(mine, u)
		} else {
			kept = append(kept, u)
		}
	}
	clear(w.pending[len(kept):])
	w.pending = kept
	w.mu.Unlock()
	for _, u := range mine {
		w.answer(u, Result{Err: err})
	}
}

// take waits for units that may be sent, marks their keys busy and returns them; nil once the writer is stopped.
func (w *writer) take() []*unit {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		if w.stopped {
			return nil
		}
		var batch []*unit
		batch, w.pending = pick(w.pending, w.busy)
		if len(batch) > 0 {
			for _, u := range batch {
				for i := range u.changes {
					w.busy[u.changes[i].key] = struct{}{}
				}
			}
			w.metrics.pending.Set(float64(len(w.pending)))
			if len(w.pending) > 0 {
				w.wake.Signal()
			}
			return batch
		}
		w.wake.Wait()
	}
}

// pick returns the units of the next transaction, and the rest in their order. A unit is passed over while one of its
// keys is busy or wanted by an earlier unit that is passed over, so that writes of one key keep their order.
func pick(pending []*unit, busy map[string]struct{}) (batch, rest []*unit) {
	ops, deepest, size := 0, 0, 0
	var held map[string]struct{} // keys of this batch and of units passed over
	blocked := func(u *unit) bool {
		for i := range u.changes {
			if _, ok := busy[u.changes[i].key]; ok {
				return true
			}
			if _, ok := held[u.changes[i].key]; ok {
				return true
			}
		}
		return false
	}
	next := 0
	var passed []*unit
	for ; next < len(pending) && next < maxScan; next++ {
		u := pending[next]
		if held == nil {
			held = map[string]struct{}{}
		}
		if (len(batch) > 0 && u.guard != batch[0].guard) || blocked(u) {
			passed = append(passed, u)
		} else {
			deep := max(deepest, len(u.changes))
			if len(batch) > 0 && (ops+len(u.changes) > maxTxnOps || len(batch)+1+deep > maxTxnOps+1 || size+u.size > maxTxnBytes) {
				break
			}
			batch = append(batch, u)
			ops, deepest, size = ops+len(u.changes), deep, size+u.size
		}
		for i := range u.changes {
			held[u.changes[i].key] = struct{}{}
		}
	}
	if len(passed) == 0 {
		return batch, pending[next:]
	}
	// The passed units move up against those not looked at.
	start := next - len(passed)
	copy(pending[start:next], passed)
	return batch, pending[start:]
}

// send carries out one transaction and answers its units.
func (w *writer) send(ctx context.Context, units []*unit) {
	// The writer's own end does not cut a transaction short: its outcome would be unknown for nothing.
	tctx, cancel := context.WithTimeout(w.epoch(), txnTimeout)
	start := time.Now()
	outcome, err := w.txn(tctx, units)
	cancel()
	w.metrics.txn(time.Since(start), len(units), err)
	if err == nil {
		w.release(units)
		for i, r := range outcome {
			w.answer(units[i], r)
		}
		w.onAnswer(nil)
		return
	}
	w.onAnswer(err)
	failure := classify(err)
	if len(units) > 1 && errors.Is(failure, ErrTooLarge) {
		// Our count leaves room for etcd's defaults, so this etcd has lower limits: one unit at a time.
		for _, u := range units {
			w.send(ctx, []*unit{u})
		}
		return
	}
	for _, u := range units {
		w.answer(u, Result{Err: failure})
	}
	if errors.Is(failure, ErrUnknown) {
		w.settle(ctx)
	}
	w.release(units)
}

// txn writes the units all at once, or where one has a conflict each for itself. The first attempt has then written
// nothing.
func (w *writer) txn(ctx context.Context, units []*unit) ([]Result, error) {
	if len(units) > 1 {
		cmps, ops := flatTxn(units)
		resp, err := w.kv.Txn(ctx).If(cmps...).Then(ops...).Commit()
		if err != nil {
			return nil, err
		}
		if resp.Succeeded {
			all := make([]Result, len(units))
			for i := range all {
				all[i].Revision = resp.Header.Revision
			}
			return all, nil
		}
	}
	cmps, ops := nestedTxn(units)
	resp, err := w.kv.Txn(ctx).If(cmps...).Then(ops...).Commit()
	if err != nil {
		return nil, err
	}
	return results(units, resp), nil
}

// settle waits until a linearizable read succeeds, or ctx ends.
func (w *writer) settle(ctx context.Context) {
	for wait := 50 * time.Millisecond; ctx.Err() == nil && w.probe(ctx) != nil; wait = min(2*wait, 2*time.Second) {
		sleep.For(ctx, wait)
	}
}

func (w *writer) release(units []*unit) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, u := range units {
		for i := range u.changes {
			delete(w.busy, u.changes[i].key)
		}
	}
	w.wake.Broadcast()
}

func (w *writer) answer(u *unit, r Result) {
	w.room.Release(1)
	w.metrics.result(r.Err)
	u.call.set(u.index, r)
}

func (c *call) set(i int, r Result) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.results[i] = r
	if c.missing--; c.missing == 0 {
		close(c.done)
	}
}

// abandon returns the results as they are, err for those that are missing.
func (c *call) abandon(err error) []Result {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Result, len(c.results))
	copy(out, c.results)
	for i := range out {
		if out[i] == (Result{}) {
			out[i].Err = err
		}
	}
	return out
}

// classify tells what an error of a transaction means for its units.
func classify(err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrNoSpace), errors.Is(err, rpctypes.ErrTooManyRequests):
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	case errors.Is(err, rpctypes.ErrRequestTooLarge), errors.Is(err, rpctypes.ErrTooManyOps):
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	switch status.Code(err) {
	case codes.InvalidArgument, codes.PermissionDenied, codes.Unauthenticated:
		return fmt.Errorf("%w: %w: %w", ErrUnavailable, errRefused, err)
	}
	return fmt.Errorf("%w: %w", ErrUnknown, err)
}
