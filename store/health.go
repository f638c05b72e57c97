package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"lockstep/internal/sleep"
)

// Health's sentinels, beside the text.
var (
	// ErrLoading: the first view is not complete.
	ErrLoading = errors.New("the view is still being loaded from etcd")
	// ErrFull: etcd's space quota is used up; reads work, writes other than deletions do not.
	ErrFull = errors.New("etcd is full (NOSPACE) and takes no writes until space is freed")
	// ErrGone: etcd does not answer, or has no leader.
	ErrGone = errors.New("etcd does not answer")
	// ErrBehind: etcd answers, and the view does not follow.
	ErrBehind = errors.New("the view does not follow etcd")
)

const (
	// probeEvery is how often etcd is asked while it is well, and while it is not.
	probeEvery     = 5 * time.Second
	probeEverySick = time.Second
	// probeTimeout is what /readyz tolerates of a slow etcd.
	probeTimeout = 3 * time.Second
	// followTimeout is how long the view may take to reach the probe's revision.
	followTimeout = 5 * time.Second
)

type healthState int

const (
	stateLoading healthState = iota
	stateServing
	stateFull
	stateGone
	stateBehind
)

// health is the store's present state and since when.
type health struct {
	mu    sync.Mutex
	state healthState
	cause error
	since time.Time
}

// set moves to a state and tells whether that is a change. Loading ends only by serving.
func (h *health) set(state healthState, cause error) (changed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	changed = h.state != state || h.since.IsZero()
	if changed {
		h.since = time.Now()
	}
	h.state, h.cause = state, cause
	return changed
}

func (h *health) get() (state healthState, since time.Time, cause error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state, h.since, h.cause
}

// err writes the state as Health does.
func (h *health) err() error {
	state, since, cause := h.get()
	lasted := time.Since(since).Truncate(time.Second)
	switch state {
	case stateServing:
		return nil
	case stateFull:
		return fmt.Errorf("%w (for %v)", ErrFull, lasted)
	case stateGone:
		return fmt.Errorf("%w (for %v): %w", ErrGone, lasted, cause)
	case stateBehind:
		return fmt.Errorf("%w (for %v): %w", ErrBehind, lasted, cause)
	}
	if cause != nil {
		return fmt.Errorf("%w: %w", ErrLoading, cause)
	}
	return ErrLoading
}

// Health is nil while reads and writes work, else it says what does not; it matches ErrLoading, ErrFull, ErrGone or
// ErrBehind. It does not ask etcd: the state is at most some seconds old.
func (s *Store) Health() error { return s.state.err() }

// answered takes what etcd said to a write: it knows before the next probe that etcd is full.
func (s *Store) answered(err error) {
	if errors.Is(err, rpctypes.ErrNoSpace) {
		s.moveTo(stateFull, err)
	}
}

func (s *Store) moveTo(state healthState, cause error) {
	if !s.state.set(state, cause) {
		return
	}
	if state == stateServing {
		s.metrics.healthy.Set(1)
		s.log.Info("etcd serves reads and writes")
		return
	}
	s.metrics.healthy.Set(0)
	s.log.Error("the store is not healthy", "error", s.state.err())
}

// warn logs what went wrong in the background; quietly while the store is not healthy, which is the cause then and has
// been told.
func (s *Store) warn(ctx context.Context, message string, args ...any) {
	level := slog.LevelWarn
	if s.Health() != nil {
		level = slog.LevelDebug
	}
	s.log.Log(ctx, level, message, args...)
}

// ServingSince is since when reads and writes have worked; now while they do not.
func (s *Store) ServingSince() time.Time {
	state, since, _ := s.state.get()
	if state != stateServing {
		return time.Now()
	}
	return since
}

// watchHealth asks etcd from time to time, until ctx ends.
func (s *Store) watchHealth(ctx context.Context) error {
	for {
		wait := probeEvery
		if s.Health() != nil {
			wait = probeEverySick
		}
		if !sleep.For(ctx, wait) {
			return nil
		}
		state, cause, err := s.examine(ctx)
		if err != nil {
			return err
		}
		if ctx.Err() == nil {
			s.moveTo(state, cause)
		}
	}
}

// examine finds the present state. Err ends the store.
func (s *Store) examine(ctx context.Context) (state healthState, cause, err error) {
	before := s.View().Revision()
	probe, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	rev, err := s.readRevision(probe)
	if err != nil {
		return s.orLoading(stateGone), err, nil
	}
	if rev < before {
		return stateGone, nil, fmt.Errorf("etcd went back from revision %d to %d: its data was replaced, start again", before, rev)
	}
	select {
	case <-s.ready:
	default:
		return stateLoading, nil, nil
	}
	follow, cancel := context.WithTimeout(ctx, followTimeout)
	defer cancel()
	if _, err := s.Wait(follow, rev); err != nil {
		return stateBehind, err, nil
	}
	// Etcd's alarms are read by proposing to read them: only where there is reason to.
	if was, _, _ := s.state.get(); was == stateFull {
		alarms, err := s.client.AlarmList(follow)
		if err != nil {
			return stateGone, err, nil
		}
		for _, a := range alarms.Alarms {
			if a.Alarm == etcdserverpb.AlarmType_NOSPACE {
				return stateFull, rpctypes.ErrNoSpace, nil
			}
		}
	}
	return stateServing, nil, nil
}

// orLoading is the state, or loading while there is no first view.
func (s *Store) orLoading(state healthState) healthState {
	select {
	case <-s.ready:
		return state
	default:
		return stateLoading
	}
}
