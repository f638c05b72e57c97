package encryption

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"lockstep/daemon/pki"
	"lockstep/internal/sleep"
	"lockstep/reconcilers/apiservers"
	"lockstep/store"
)

const (
	// every is how often a server looks whether anything is to be done: a rotation takes a few of these.
	every = time.Second
	// breath is the pause after a hundred values were sealed anew, so that others' writes go before: at most a few thousand a second.
	breath = 20 * time.Millisecond
	// actTimeout bounds one step.
	actTimeout = 30 * time.Second
)

// Options of who looks after the keys. All are required.
type Options struct {
	Store   *store.Store
	Keyring *Keyring
	Log     *slog.Logger
	Now     func() time.Time
}

// See is what the next step is decided from, of a cluster that was not quiet yet, and the revision of its state.
func (o Options) See() (seen Seen, rev int64, err error) {
	v, now := o.Store.View(), o.Now()
	seen = Seen{Format: o.Store.Format(), Servers: apiservers.Servers(v, now), Seals: o.Store.Seals(), Now: now}
	seen.Keys, _ = o.Keyring.Kept()
	seen.State, rev, err = In(v)
	return seen, rev, err
}

// Follow keeps this server's files in step with the cluster's keys until ctx ends; every server does.
func Follow(ctx context.Context, o Options) error {
	select {
	case <-o.Store.Ready():
	case <-ctx.Done():
		return nil
	}
	failing := false
	for sleep.For(ctx, every) {
		err := o.Keyring.Keep()
		if err != nil && !failing {
			o.Log.Error("cannot keep the cluster's keys", "error", err)
		}
		failing = err != nil
	}
	return nil
}

// Lead seals what is not sealed as it should be, and carries rotations out, until ctx ends; the leader does, through its committer.
func Lead(ctx context.Context, o Options, commit store.Committer) error {
	l := &leader{Options: o, commit: commit}
	for ctx.Err() == nil {
		pause, err := l.step(ctx)
		if err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrConflict) && !store.Outage(err) {
			o.Log.Warn("cannot go on sealing", "error", err)
		}
		sleep.For(ctx, pause)
	}
	return nil
}

type leader struct {
	Options
	commit store.Committer

	told  string    // the last step that the log was told of
	quiet time.Time // since when nothing has been to be done but to wait for the end; zero: something is
	by    string    // the key that wrote then
}

// step does what is to be done next, and says when to look again.
func (l *leader) step(ctx context.Context) (pause time.Duration, _ error) {
	ctx, cancel := context.WithTimeout(ctx, actTimeout)
	defer cancel()
	seen, rev, err := l.See()
	if err != nil {
		return every, err
	}
	state, now := seen.State, seen.Now
	if !l.quiet.IsZero() && l.by == state.Writes {
		seen.Quiet = now.Sub(l.quiet)
	}
	next := Decide(seen)
	l.tell(next)
	if quiet := next.Verb == Wait && state.Next != nil && state.Writes == state.Next.Name; !quiet {
		l.quiet = time.Time{}
	} else if l.quiet.IsZero() || l.by != state.Writes {
		l.quiet, l.by = now, state.Writes
	}
	switch next.Verb {
	case Raise:
		return every, l.Store.Raise(ctx, l.commit)
	case Put:
		return 0, put(ctx, l.Store, l.commit, next.State, rev, next.Reason)
	case Rewrite:
		_, err := l.Store.Rewrite(ctx, l.commit)
		if err != nil {
			return every, err
		}
		return breath, nil
	}
	return every, nil
}

func (l *leader) tell(s Step) {
	text := string(s.Verb)
	if s.Verb != Rewrite {
		text += s.Reason
	}
	if s.Verb != Rest && text != l.told {
		l.Log.Info("encryption", "next", s.Verb, "reason", s.Reason)
	}
	l.told = text
}

// put writes a state and waits until the view has it.
func put(ctx context.Context, s *store.Store, commit store.Committer, state State, rev int64, reason string) error {
	r := commit.Commit(ctx, store.Group{{Record: state.Record(), If: rev, Reason: reason}})[0]
	if r.Err != nil {
		return r.Err
	}
	_, err := s.Wait(ctx, r.Revision)
	return err
}

// Rotate begins a rotation, and returns the name of the key that will seal. The leader carries it out.
func Rotate(ctx context.Context, o Options) (string, error) {
	if path := o.Keyring.Path(); path != "" {
		return "", fmt.Errorf("cannot rotate: keys are stated in %s; state a new one there, last on every server and then first, "+
			"and take the old one away when lockstep encryption status says that nothing is sealed with it", path)
	}
	state, rev, err := In(o.Store.View())
	switch {
	case err != nil:
		return "", fmt.Errorf("cannot rotate: %w", err)
	case state.Writes == "":
		return "", errors.New("cannot rotate: the cluster seals nothing yet; lockstep encryption status says what it waits for")
	case state.Next != nil:
		return "", fmt.Errorf("cannot rotate: a rotation to key %s is under way since %s; lockstep encryption status says how far it is",
			state.Next.Name, state.Next.Since.Format(time.RFC3339))
	}
	now := o.Keyring.known.Load()
	with, ok := now.keys[state.Writes]
	if !ok {
		return "", fmt.Errorf("cannot rotate: key %s is not on this server", state.Writes)
	}
	key := pki.NewSealingKey(o.Now())
	if state.Next, err = offer(key, state.Writes, with, o.Now()); err != nil {
		return "", fmt.Errorf("cannot rotate: %w", err)
	}
	if err := put(ctx, o.Store, o.Store, state, rev, "a rotation was asked for"); err != nil {
		return "", fmt.Errorf("cannot rotate: %w", err)
	}
	return key.Name, nil
}
