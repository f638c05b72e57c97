package engine

import (
	"context"
	"time"
)

// Stepper runs an engine's turns one after another in the caller's goroutine: with a seed and a clock of the test's own
// everything it does can be repeated.
type Stepper struct {
	e   *Engine
	sub interface{ Close() }
	c   func() bool // applies one batch, if there is one
}

// NewStepper returns a stepper of an engine that is not running. The store's view must be complete.
func NewStepper(e *Engine) *Stepper {
	sub := e.Store.Subscribe("stepper")
	s := &Stepper{e: e, sub: sub}
	s.c = func() bool {
		select {
		case batch, open := <-sub.C:
			if open {
				e.wake(batch)
			}
			return open
		default:
			return false
		}
	}
	e.resync()
	return s
}

// Step makes one turn that is due, and says whether there was one.
func (s *Stepper) Step(ctx context.Context) bool {
	for s.c() {
	}
	s.e.reached(s.e.Store.View().Revision())
	q := s.e.queue
	q.promote(s.e.Clock.Now())
	it, ok := q.peek()
	if !ok {
		return false
	}
	q.take(it)
	s.e.done(it, s.e.turn(ctx, it))
	return true
}

// Next returns when the next key is due by time; zero: none is.
func (s *Stepper) Next() time.Time {
	next, _ := s.e.queue.promote(s.e.Clock.Now())
	return next
}

// Close ends the stepper.
func (s *Stepper) Close() { s.sub.Close() }
