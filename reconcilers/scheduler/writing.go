package scheduler

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
	"lockstep/store"
)

// parcelSize is how many groups are sent together: four of etcd's transactions, so that it is busy while the next is decided.
const parcelSize = 512

// action is a group to be written, whom it is about, and what is to be told once it is written; nil for nothing.
type action struct {
	pod   *corev1.Pod
	group store.Group
	tell  func()
}

// parcel is actions that are sent together. Its results are there once it is done.
type parcel struct {
	actions []action
	results []store.Result
}

// writing is the writes of one round, of which the first are on their way while more are decided. Each happens for itself, as those of
// one commit do.
type writing struct {
	commit  store.Committer
	next    []action // to be sent
	parcels []*parcel
	sent    sync.WaitGroup
}

// add has an action carried out, soon.
func (w *writing) add(ctx context.Context, a action) {
	if w.next = append(w.next, a); len(w.next) == parcelSize {
		w.send(ctx)
	}
}

// send sends what there is to be sent.
func (w *writing) send(ctx context.Context) {
	if len(w.next) == 0 {
		return
	}
	p := &parcel{actions: w.next}
	w.parcels, w.next = append(w.parcels, p), make([]action, 0, parcelSize)
	w.sent.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, commitTimeout)
		defer cancel()
		groups := make([]store.Group, len(p.actions))
		for i, a := range p.actions {
			groups[i] = a.group
		}
		p.results = w.commit.Commit(ctx, groups...)
	})
}

// wait sends the rest, and returns once all results are there.
func (w *writing) wait(ctx context.Context) {
	w.send(ctx)
	w.sent.Wait()
}

// finish waits until the view shows what was written, so that no pod is decided twice, and then tells of it: whom it is told goes after
// whoever waits for a node.
func (s *Scheduler) finish(ctx context.Context, w *writing, now time.Time) (failed error) {
	w.wait(ctx)
	var reached int64
	for _, p := range w.parcels {
		for i, r := range p.results {
			reached = max(reached, r.Revision)
			switch {
			case errors.Is(r.Err, store.ErrConflict):
				s.metrics.conflicts.Inc()
				s.queue.retry(kinds.KeyOf(p.actions[i].pod), now)
			case errors.Is(r.Err, store.ErrTooLarge):
				s.unwritable(p.actions[i].pod, r.Err, now)
			case r.Err != nil:
				failed = r.Err
			}
		}
	}
	if reached > 0 {
		ctx, cancel := context.WithTimeout(ctx, commitTimeout)
		defer cancel()
		if _, err := s.opts.Store.Wait(ctx, reached); err != nil {
			failed = errors.Join(failed, err)
		}
	}
	for _, p := range w.parcels {
		for i, r := range p.results {
			if tell := p.actions[i].tell; r.Err == nil && tell != nil {
				tell()
			}
		}
	}
	return failed
}

// unwritable tells why a pod gets no node though there is one: it has no room for what is to be written to it. Nothing that happens to
// others helps, and no other pod waits for it.
func (s *Scheduler) unwritable(p *corev1.Pod, cause error, now time.Time) {
	why := fmt.Sprintf("running Bind plugin %q: %v", "DefaultBinder", cause)
	if s.queue.refused(Refusal{Pod: p, Reason: why}, now) {
		s.opts.Events.Event(scheduledBy(p), p, corev1.EventTypeWarning, "FailedScheduling", why)
	}
}
