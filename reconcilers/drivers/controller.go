// Package drivers asks the controllers of CSI drivers what package csi decides.
package drivers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"lockstep/internal/plain"
	"lockstep/kinds"
	"lockstep/kinds/strategy"
	"lockstep/reconcilers/csi"
	"lockstep/store"
	"lockstep/store/view"
)

const (
	// commitTimeout bounds one write, as the reconcilers' does.
	commitTimeout = 15 * time.Second
	// callTimeout bounds one call: a driver that attaches a disk in a cloud takes that long, and what takes longer is asked again.
	callTimeout = time.Minute
	// firstPause doubles up to lastPause after each failure about one object, as sidecars have it.
	firstPause = time.Second
	lastPause  = 5 * time.Minute
	// crowded is the pause of an object whose driver has as many calls as it may have at a time.
	crowded = 500 * time.Millisecond
	// AtOnce bounds the calls of one driver at a time: so many may hang, and those of other drivers go on.
	AtOnce = 32
	// maxText bounds what a driver's failure says in events and status: a VolumeError holds 1,024 bytes.
	maxText = 900
)

// Options of a controller. All but Log, Now and Stated are required.
type Options struct {
	Store  store.Reader
	Commit store.Committer
	Events store.Recorder
	// Dial reaches the controller of a driver through the agent of a node. ctx bounds dialling alone.
	Dial func(ctx context.Context, node, driver string) (net.Conn, error)
	// Stated says that a source states an object; nil: none does.
	Stated func(*view.View, kinds.Key) bool
	// Log. Nil: slog.Default().
	Log *slog.Logger
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

// Controller has drivers asked. One runs in a cluster: its Committer is the leader's.
type Controller struct {
	opts    Options
	drivers roster
	queue   queue

	mu       sync.Mutex
	measured map[kinds.Key]time.Time // when what is told of a capacity was measured
}

// New returns a controller; Run starts it.
func New(o Options) *Controller {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Controller{
		opts: o, queue: newQueue(), drivers: roster{dial: o.Dial, by: map[string]*driver{}}, measured: map[kinds.Key]time.Time{},
	}
}

// outcome is what became of a job's turn.
type outcome struct {
	job
	revision int64 // what it wrote is seen from there on
	failed   error
	pause    time.Duration // before it is decided again; zero: at once
	again    time.Time     // when it is decided again without cause; zero: never
	soon     bool          // it is decided again without cause
}

// Run works until ctx ends, then returns nil once its calls have ended.
func (c *Controller) Run(ctx context.Context) error {
	if _, err := c.opts.Store.Wait(ctx, 1); err != nil {
		return nil //nolint:nilerr // ctx has ended
	}
	var running sync.WaitGroup
	done := make(chan outcome)
	defer c.drivers.close()
	defer running.Wait()
	sub := c.opts.Store.Subscribe("csi")
	defer func() { sub.Close() }()
	c.queue.all(c.opts.Store.View())
	timer := time.NewTimer(0)
	defer timer.Stop()
	busy := 0
	for ctx.Err() == nil {
		v := c.opts.Store.View()
		for {
			j, ok := c.queue.take(c.opts.Now(), v.Revision())
			if !ok {
				break
			}
			busy++
			running.Go(func() {
				o := c.turn(ctx, v, j)
				select {
				case done <- o:
				case <-ctx.Done():
				}
			})
			if busy >= maxTurns {
				break
			}
		}
		if next, ok := c.queue.next(); ok && busy < maxTurns {
			timer.Reset(next.Sub(c.opts.Now()))
		}
		select {
		case <-ctx.Done():
		case <-timer.C:
		case o := <-done:
			busy--
			c.finish(o)
		case b, open := <-sub.C:
			if !open { // what was lost is unknown: all is looked at again
				sub.Close()
				sub = c.opts.Store.Subscribe("csi")
				c.queue.all(c.opts.Store.View())
				continue
			}
			for _, change := range b.Changes {
				c.queue.changed(b.View, change)
			}
		}
	}
	return nil
}

// maxTurns bounds the turns at a time, for the memory that they take: most of them wait for a driver, none of which has more than
// AtOnce.
const maxTurns = 2048

// finish puts a job back.
func (c *Controller) finish(o outcome) {
	if o.failed != nil {
		level := slog.LevelWarn
		if store.Outage(o.failed) {
			level = slog.LevelDebug
		}
		c.opts.Log.Log(context.Background(), level, "a CSI driver's work is not done, trying again", "error", o.failed)
	}
	c.queue.done(o, c.opts.Now())
}

// turn decides about a job once, and carries the decision out.
func (c *Controller) turn(ctx context.Context, v *view.View, j job) outcome {
	s := c.decide(v, j, c.opts.Now())
	out := c.write(ctx, v, j, s)
	if out.failed != nil || out.revision > 0 {
		return out
	}
	name := s.Ask
	if s.Call != nil {
		name = s.Call.Driver
	}
	if name == "" {
		return out
	}
	d := c.drivers.get(name)
	if !d.enter() {
		return outcome{job: j, pause: crowded, soon: true}
	}
	defer d.leave()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if s.Call == nil {
		if err := c.introduce(ctx, v, d); err != nil {
			return outcome{job: j, failed: fmt.Errorf("cannot ask CSI driver %s what it can do: %w", name, err)}
		}
		return outcome{job: j, soon: true}
	}
	answer, err := c.call(ctx, v, d, s.Call)
	if err != nil && context.Cause(ctx) == context.Canceled {
		return outcome{job: j, soon: true} // this process goes, or leads no more: nothing is known
	}
	after := s.Call.Then(answer, err, c.opts.Now())
	c.note(after.Measured)
	return c.write(context.WithoutCancel(ctx), v, j, after)
}

// decide looks at a job.
func (c *Controller) decide(v *view.View, j job, now time.Time) csi.Step {
	ask := c.drivers.known
	switch j.part {
	case attaching:
		return csi.Attach(v, j.name, ask, now)
	case provisioning:
		return csi.Provision(v, j.namespace, j.name, ask, now)
	case removing:
		stated := c.opts.Stated != nil && c.opts.Stated(v, volumeKey(j.name))
		return csi.Remove(v, j.name, stated, ask, now)
	case resizing:
		return csi.Resize(v, j.namespace, j.name, ask, now)
	default:
		return csi.Capacity(v, j.name, ask, c.last, now)
	}
}

// last is when what is told of a capacity was measured.
func (c *Controller) last(key kinds.Key) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.measured[key]
}

func (c *Controller) note(measured kinds.Key) {
	if measured.Name == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.measured[measured] = c.opts.Now()
}

// write carries out what a step changes, and tells its events.
func (c *Controller) write(ctx context.Context, v *view.View, j job, s csi.Step) outcome {
	out := outcome{job: j, failed: s.Failed, again: s.Again}
	if len(s.Changes) > 0 {
		group, err := c.prepare(v, s.Changes)
		if err != nil {
			out.failed = errors.Join(s.Failed, err)
			return out
		}
		ctx, cancel := context.WithTimeout(ctx, commitTimeout)
		defer cancel()
		result := c.opts.Commit.Commit(ctx, group)[0]
		switch {
		case errors.Is(result.Err, store.ErrConflict) || errors.Is(result.Err, store.ErrDeposed):
			return outcome{job: j, pause: conflicted, soon: true} // decided from what is no more
		case result.Err != nil:
			out.failed = errors.Join(s.Failed, fmt.Errorf("cannot write what a CSI driver has done: %w", result.Err))
			return out
		}
		out.revision = result.Revision
	}
	for _, e := range s.Events {
		c.opts.Events.Event(e.Component, e.About, e.Type, e.Reason, plain.Cut(e.Message, maxText))
	}
	return out
}

// conflicted is the pause after a write that was decided from what is no more, for the view to have what came between.
const conflicted = 20 * time.Millisecond

// prepare passes changes through Kubernetes' rules.
func (c *Controller) prepare(v *view.View, changes []csi.Change) (group store.Group, _ error) {
	for _, change := range changes {
		next := change.Object.DeepCopyObject().(kinds.Object)
		w := store.Write{Key: kinds.KeyOf(next), Object: next, If: kinds.Revision(next), Reason: change.Reason}
		old := v.Get(w.Key)
		var errs field.ErrorList
		switch {
		case next.GetUID() == "" && !change.Gone:
			strategy.Default(next)
			errs = strategy.PrepareCreate(next)
		case old == nil:
			return nil, fmt.Errorf("cannot write %v: it is gone", w.Key)
		case change.Gone:
		case change.Status:
			errs = strategy.PrepareStatus(next, old)
		default:
			errs = strategy.PrepareUpdate(next, old)
		}
		if len(errs) > 0 {
			return nil, fmt.Errorf("cannot write %v: %w", w.Key, errs.ToAggregate())
		}
		if next.GetDeletionTimestamp() != nil && len(next.GetFinalizers()) == 0 {
			w.Object = nil
		}
		group = append(group, w)
	}
	return group, nil
}
