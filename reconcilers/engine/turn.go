package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/store"
	"lockstep/store/view"
)

// commitTimeout bounds one write: etcd itself gives up a proposal after about 7 s (its request timeout at default
// settings).
const commitTimeout = 15 * time.Second

// settleTimeout bounds the wait for the view to show what a write ran into. It is long since deciding from the older
// view could create a second time what an earlier write, whose outcome stayed unknown, has created.
const settleTimeout = 30 * time.Second

// turn decides about one key once and carries the decision out.
func (e *Engine) turn(ctx context.Context, it item) outcome {
	r := &e.loops[it.loop]
	v, now := e.Store.View(), e.Clock.Now()
	var owner kinds.Object
	if r.Owner != nil {
		owner = v.Get(it.key)
	}

	d, err := e.decide(r, v.Only(e.sees[it.loop]), it.key, now)
	e.metrics.deciding.WithLabelValues(r.Name).Observe(e.Clock.Since(now).Seconds())
	if err != nil {
		return e.failed(r, it.key, err, now)
	}
	rules := e.writes[it.loop]
	if err := rules.check(v, owner, d); err != nil {
		e.bug(r, it.key, owner, err)
		return outcome{}
	}
	c := charging{ledger: &e.ledger, view: e.Store.View, now: now}
	p := prepare(r, rules, e.Rules, v, owner, d, now, e.Seed+e.turns.Add(1), c.charge)
	c.close()
	start := e.Clock.Now()
	out, result := e.act(ctx, r, it.key, owner, p)
	if len(p.steps) > 0 {
		e.metrics.acting.WithLabelValues(r.Name).Observe(e.Clock.Since(start).Seconds())
	}
	e.metrics.decisions.WithLabelValues(r.Name, result).Inc()
	if !out.retry || len(p.refused) > 0 {
		for _, ev := range d.Events {
			e.tell(r, owner, &ev, "", nil)
		}
	}
	out.again = d.Again
	return out
}

// decide calls the reconciler and turns a panic into a stalled error: one key's bug must not stop the others.
func (e *Engine) decide(r *Reconciler, v *view.View, key kinds.Key, now time.Time) (d loop.Decision, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = loop.Stall(fmt.Errorf("cannot decide about %v: panic: %v\n%s", key, p, debug.Stack()))
		}
	}()
	return r.Decide(v, key, now)
}

// failed is the outcome of an error of Decide, by the error's own retry policy.
func (e *Engine) failed(r *Reconciler, key kinds.Key, err error, now time.Time) outcome {
	e.metrics.decisions.WithLabelValues(r.Name, "error").Inc()
	out, policy := outcome{retry: true}, "transient"
	if after, ok := loop.IsWaiting(err); ok {
		out, policy = outcome{again: now.Add(after)}, "waiting"
	} else if loop.IsStalled(err) {
		out, policy = outcome{}, "stalled"
	}
	e.metrics.errors.WithLabelValues(r.Name, policy).Inc()
	e.Log.Error("cannot decide", "reconciler", r.Name, "key", key.String(), "policy", policy, "error", err)
	return out
}

// bug reports a decision that breaks the engine's rules. Nothing of it is carried out: the key waits for a change.
func (e *Engine) bug(r *Reconciler, key kinds.Key, owner kinds.Object, err error) {
	e.metrics.decisions.WithLabelValues(r.Name, "bug").Inc()
	e.metrics.errors.WithLabelValues(r.Name, "bug").Inc()
	e.Log.Error("a reconciler broke its rules, nothing was changed", "reconciler", r.Name, "key", key.String(), "error", err)
	if owner != nil {
		e.Events.Event(r.Component, owner, corev1.EventTypeWarning, "ReconcilerBug", fmt.Sprintf("Nothing was changed: %v", err))
	}
}

// act writes the steps, tells what became of them, and says when the key may be decided again.
func (e *Engine) act(ctx context.Context, r *Reconciler, key kinds.Key, owner kinds.Object, p prepared) (outcome, string) {
	for _, ref := range p.refused {
		e.Log.Warn("a write was refused", "reconciler", r.Name, "key", key.String(), "object", ref.key.String(), "error", ref.cause)
		e.tell(r, owner, ref.failed, ref.key.Name, ref.cause)
	}
	out, result := outcome{retry: len(p.refused) > 0}, "nothing"
	if out.retry {
		result, out.refused = "refused", p.refused[0].key.Namespace
	}
	if len(p.steps) == 0 {
		return out, result
	}
	if !out.retry {
		result = "written"
	}
	var failures []error
	for n, res := range e.commit(ctx, p.steps) {
		s := p.steps[n]
		if s.operation == "create" {
			e.ledger.written(s.Object, res.Revision, res.Err)
		}
		switch {
		case res.Err == nil:
			out.revision = max(out.revision, res.Revision)
			e.metrics.writes.WithLabelValues(r.Name, s.operation).Inc()
			e.Log.Debug("wrote", "reconciler", r.Name, "key", key.String(), "object", s.Key.String(), "operation",
				s.operation, "reason", s.Reason)
			e.tell(r, owner, s.done, s.Key.Name, nil)
			continue
		case errors.Is(res.Err, store.ErrConflict):
			e.settle(ctx, s)
			result = "conflict"
		case errors.Is(res.Err, store.ErrDeposed) || ctx.Err() != nil:
			// Somebody else goes on with it.
			result = "error"
		default:
			failures = append(failures, fmt.Errorf("cannot write %v: %w", s.Key, res.Err))
			if errors.Is(res.Err, store.ErrTooLarge) {
				e.tell(r, owner, s.failed, s.Key.Name, res.Err)
			}
		}
		out.retry = true
	}
	if len(failures) > 0 {
		// Mostly all for the same cause: one is enough for the log.
		result = "error"
		e.metrics.errors.WithLabelValues(r.Name, "transient").Inc()
		level := slog.LevelError
		if store.Outage(failures[0]) {
			level = slog.LevelDebug
		}
		e.Log.Log(ctx, level, "cannot carry out a decision", "reconciler", r.Name, "key", key.String(), "failed", len(failures), "of",
			len(p.steps), "error", failures[0])
	}
	return out, result
}

// commit writes each step on its own, so that one conflict spoils only itself. What has an unknown outcome is tried
// again as it is, name and condition included, until it is known: it then either succeeds or conflicts, if only with
// itself.
func (e *Engine) commit(ctx context.Context, steps []step) []store.Result {
	results := make([]store.Result, len(steps))
	todo := make([]int, len(steps))
	for n := range steps {
		todo[n] = n
	}
	for tries := 0; ; tries++ {
		groups := make([]store.Group, len(todo))
		for n, i := range todo {
			groups[n] = store.Group{steps[i].Write}
		}
		cctx, cancel := context.WithTimeout(ctx, commitTimeout)
		answers := e.Commit.Commit(cctx, groups...)
		cancel()
		var unknown []int
		for n, i := range todo {
			results[i] = answers[n]
			if err := answers[n].Err; errors.Is(err, store.ErrUnknown) || errors.Is(err, context.DeadlineExceeded) {
				unknown = append(unknown, i)
			}
		}
		if todo = unknown; len(todo) == 0 {
			return results
		}
		select {
		case <-ctx.Done():
			return results
		case <-e.Clock.After(backoff(tries)):
		}
	}
}

// settle waits until the view shows the object that a write conflicted with, so that the next decision is a better one.
func (e *Engine) settle(ctx context.Context, s step) {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	for v := e.Store.View(); ; {
		now := int64(0)
		if o := v.Get(s.Key); o != nil {
			now = kinds.Revision(o)
		}
		if now != s.If {
			return
		}
		next, err := e.Store.Wait(ctx, v.Revision()+1)
		if err != nil {
			return
		}
		v = next
	}
}

// tell records an event about its object, or the owner. A nil event is none.
func (e *Engine) tell(r *Reconciler, owner kinds.Object, ev *loop.Event, name string, cause error) {
	if ev == nil {
		return
	}
	about := ev.About
	if about == nil {
		about = owner
	}
	if about == nil {
		return
	}
	message := strings.ReplaceAll(ev.Message, "{name}", name)
	if cause != nil {
		message = strings.ReplaceAll(message, "{cause}", cause.Error())
	}
	e.Events.Event(r.Component, about, ev.Type, ev.Reason, message)
}
