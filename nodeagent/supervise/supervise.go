// Package supervise has what the agent started, and outlives it, started again when it ends.
package supervise

import (
	"cmp"
	"context"
	"sync"
	"time"

	"lockstep/internal/sleep"
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
	// patience is how many questions in a row go unanswered before a process is taken to hang: on a busy machine one or
	// two may.
	patience = 3
	// usualEvery has one that hangs killed within 40 s.
	usualEvery = 10 * time.Second
)

// Service is a process, or what stands for one.
type Service struct {
	// Start starts it unless it runs, and returns its number when it serves; the caller's is to reap it. Required.
	Start func(ctx context.Context) (pid int, err error)
	// Answers asks it for an answer; an error says that there was none. Nil takes one that lives to work.
	Answers func(ctx context.Context) error
	// Every is how long an answer may take, and how much later it is asked again; zero means 10 s.
	Every time.Duration
	// Hangs is told when it has not answered three times in a row, before it is killed; nil drops that.
	Hangs func(err error)
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
			if s.wait(ctx, pid) != nil {
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
		sleep.For(ctx, wait)
		wait = min(max(2*wait, firstWait), lastWait)
	}
	return nil
}

// wait returns nil when the process has ended, having been killed if it hung, and else ctx's error.
func (s Service) wait(ctx context.Context, pid int) error {
	if s.Answers == nil {
		return process.Wait(ctx, pid)
	}
	watch, stop := context.WithCancel(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer stop()
	watching.Go(func() {
		err := s.hangs(watch)
		if err == nil {
			return
		}
		// Its number is its own until the wait below has ended.
		process.Kill(pid, func() bool {
			if watch.Err() != nil || !process.Alive(pid) {
				return false
			}
			if s.Hangs != nil {
				s.Hangs(err)
			}
			return true
		})
	})
	return process.Wait(ctx, pid)
}

// hangs returns why it has not answered, or nil when ctx has ended.
func (s Service) hangs(ctx context.Context) error {
	every := cmp.Or(s.Every, usualEvery)
	for {
		if !sleep.For(ctx, every) {
			return nil
		}
		if err := Ask(ctx, every, s.Answers); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

// Ask returns nil as soon as there is an answer, and the last error after three questions without one, each of which may
// take so long; zero means 10 s. The error is ctx's when that has ended.
func Ask(ctx context.Context, every time.Duration, answers func(ctx context.Context) error) error {
	every = cmp.Or(every, usualEvery)
	var err error
	for range patience {
		try, cancel := context.WithTimeout(ctx, every)
		if err = answers(try); err == nil {
			cancel()
			return nil
		}
		<-try.Done() // one that is refused at once may be about to listen
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return err
}
