// Package turns lets work begin in turn, without anyone holding up the others for long.
package turns

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// Turns are so many at a time. A turn that lasts passes on: what takes its time, or hangs, goes on beside those that
// begin after it. So the bound is on what begins together, and nobody waits for another's work longer than a turn for
// each that came before.
type Turns struct {
	free *semaphore.Weighted
	last time.Duration
}

// New returns n turns, each of which passes on after a while.
func New(n int, last time.Duration) *Turns {
	return &Turns{semaphore.NewWeighted(int64(n)), last}
}

// Take waits for a turn, in the order of the calls; the error is ctx's. The turn ends when done is called, which may be
// called twice, or when it passes on.
func (t *Turns) Take(ctx context.Context) (done func(), err error) {
	if err := t.free.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	end := sync.OnceFunc(func() { t.free.Release(1) })
	timer := time.AfterFunc(t.last, end)
	return func() {
		timer.Stop()
		end()
	}, nil
}
