// Package supervise has what the agent started, and outlives it, started again when it ends.
package supervise

import (
	"context"
	"time"

	"lockstep/nodeagent/process"
)

const (
	// firstWait doubles up to lastWait between tries to start what will not: containers wait for it, so the first is
	// short; something that is wrong for long is not tried more often than twice a minute. The very first try after an
	// end is made at once.
	firstWait = 100 * time.Millisecond
	lastWait  = 30 * time.Second
	// settled is how long a process must have lived for the next try to be made at once.
	settled = time.Minute
)

// Service is a process, or what stands for one.
type Service struct {
	// Start starts it unless it runs, and returns its number when it serves; the caller's is to reap it. Required.
	Start func(ctx context.Context) (pid int, err error)
	// Ended is told when it has ended unasked, before it is started again; nil drops that.
	Ended func()
	// Started is told when it serves again after that; nil drops it.
	Started func()
	// Failed is told why it cannot be started, each time, and when that is tried again; nil drops it.
	Failed func(err error, again time.Duration)
}

// Keep starts the service whenever it does not run, until ctx ends; then it returns nil and leaves it running.
func Keep(ctx context.Context, s Service) error {
	wait, ended := time.Duration(0), false
	for ctx.Err() == nil {
		began := time.Now()
		pid, err := s.Start(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && s.Failed != nil:
			s.Failed(err, wait)
		case err == nil:
			if ended && s.Started != nil {
				s.Started()
			}
			if process.Wait(ctx, pid) != nil {
				return nil
			}
			ended = true
			if s.Ended != nil {
				s.Ended()
			}
		}
		if time.Since(began) > settled {
			wait = 0
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
		wait = min(max(2*wait, firstWait), lastWait)
	}
	return nil
}
