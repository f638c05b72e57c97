package probes

import (
	"context"
	"sync"
	"time"
)

// ticks is in how many parts a probe's time-out is counted. Ten: of a time-out of 1 s, the shortest, one that comes late,
// because this process did not run, costs the target at most a tenth of a second.
const ticks = 10

// patience ends a context with context.DeadlineExceeded as its cause when a probe's time is over: time in which this process
// ran. A clock that ran on would blame a container for what the agent was late with: after a pause the answer that came in
// time and the end of the time-out would be found together. What was ticked once counts as one tick, however long it took, so
// that a process which goes on after a pause, or is given little of a busy machine, looks for the answer before each next one.
type patience struct {
	tick time.Duration
	end  context.CancelCauseFunc

	mu    sync.Mutex
	left  int
	timer *time.Timer // nil until begin
}

// newPatience returns the context that it ends; it counts from begin on.
func newPatience(ctx context.Context, timeout time.Duration) (context.Context, *patience) {
	ctx, end := context.WithCancelCause(ctx)
	return ctx, &patience{tick: timeout / ticks, end: end, left: ticks}
}

// begin counts; a second time it does nothing.
func (p *patience) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer == nil {
		p.timer = time.AfterFunc(p.tick, p.ticked)
	}
}

func (p *patience) ticked() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left--; p.left <= 0 {
		p.end(context.DeadlineExceeded)
		return
	}
	p.timer.Reset(p.tick)
}

// stop frees what the context holds.
func (p *patience) stop() {
	p.end(nil)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = 0
	if p.timer != nil {
		p.timer.Stop()
	}
}

// timedOut says that a context of newPatience ended because time was over.
func timedOut(ctx context.Context) bool { return context.Cause(ctx) == context.DeadlineExceeded }
