package images

import (
	"context"
	"time"

	"golang.org/x/sync/semaphore"

	"lockstep/nodeagent/turns"
)

const (
	// defaultParallel is how many pulls begin together: enough that one slow registry does not hold up the others, few enough that
	// the layers of the first pod are not starved by those of the last.
	defaultParallel = 4
	// longestTurn is how long a pull holds up those that came after it: longer than most take. A registry that is slow, or says
	// nothing, delays its own images alone.
	longestTurn = 10 * time.Second
	// mostPulls bounds those that go on all the same: each has connections, and layers half written.
	mostPulls = 32
)

// lanes are what pulls wait for: so many at a time, and of these so many that begin.
type lanes struct {
	free  *semaphore.Weighted
	turns *turns.Turns // nil: whoever is free begins
}

// newLanes returns those of a bound that holds however long pulls last; zero is the default, which none of them holds up for long.
func newLanes(bound int) lanes {
	if bound > 0 {
		return lanes{free: semaphore.NewWeighted(int64(bound))}
	}
	return lanes{semaphore.NewWeighted(mostPulls), turns.New(defaultParallel, longestTurn)}
}

// take waits until a pull may begin, and returns what ends it; the error is ctx's.
func (l lanes) take(ctx context.Context) (done func(), err error) {
	if err := l.free.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	leave := func() { l.free.Release(1) }
	if l.turns == nil {
		return leave, nil
	}
	pass, err := l.turns.Take(ctx)
	if err != nil {
		leave()
		return nil, err
	}
	return func() { pass(); leave() }, nil
}
