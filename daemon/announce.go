package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"

	"lockstep/kinds"
	"lockstep/reconcilers/apiservers"
	"lockstep/store"
	"lockstep/store/view"
)

// withdrawTimeout bounds the last word of a server that stops: its lease runs out otherwise.
const withdrawTimeout = time.Second

// announcer tells that this process's API server runs, and since when it has taken heartbeats.
type announcer struct {
	store interface {
		View() *view.View
		Ready() <-chan struct{}
		store.Committer
	}
	name string
	at   netip.AddrPort
	// told returns what the server tells of itself.
	told func() apiservers.Told
	// serving returns since when the store has worked; now while it does not.
	serving func() time.Time
	now     func() time.Time
	log     *slog.Logger

	mu      sync.Mutex
	stops   bool
	renewed time.Time // zero: never
	from    time.Time // since when the lease has never run out
}

// run renews the lease until ctx ends.
func (a *announcer) run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-a.store.Ready():
	}
	tick := time.NewTicker(apiservers.Period)
	defer tick.Stop()
	for {
		if err := a.renew(ctx); err != nil && ctx.Err() == nil && !passing(err) {
			a.log.Warn("cannot renew the lease of this API server", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// passing says that a renewal failed by an outage, of which the store tells, or an answer that did not come in time, as in one; or that
// another renewal, whose outcome was not known, had been written after all: the next tick writes it anew.
func passing(err error) bool {
	return store.Outage(err) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, store.ErrConflict)
}

// withdraw tells that this API server runs no more, so that nobody is sent to it for as long as its lease would last, and has run renew it
// no more. Where that cannot be told the lease runs out.
func (a *announcer) withdraw(ctx context.Context) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stops = true
	key := apiservers.Key(a.name)
	old, _ := a.store.View().Get(key).(*coordinationv1.Lease)
	if old == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, withdrawTimeout)
	defer cancel()
	lease := apiservers.Lease(old, a.name, a.at, a.from, a.now().Add(-apiservers.Patience))
	w := store.Write{Key: key, Object: lease, If: kinds.Revision(old), Reason: "this API server stops"}
	if err := a.store.Commit(ctx, store.Group{w})[0].Err; err != nil {
		a.log.Debug("cannot withdraw this API server", "error", err)
	}
}

// renew writes the lease once. What conflicts is written anew at the next tick.
func (a *announcer) renew(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stops {
		return nil
	}
	now := a.now()
	if a.renewed.IsZero() || now.Sub(a.renewed) >= apiservers.Patience {
		a.from = now
	}
	since := a.from
	if serving := a.serving(); serving.After(since) {
		since = serving
	}
	key := apiservers.Key(a.name)
	old, _ := a.store.View().Get(key).(*coordinationv1.Lease)
	lease := apiservers.Lease(old, a.name, a.at, since, now)
	apiservers.Tell(lease, a.told())
	w := store.Write{Key: key, Object: lease, Reason: "this API server runs"}
	if old != nil {
		w.If = kinds.Revision(old)
	}
	ctx, cancel := context.WithTimeout(ctx, apiservers.Period)
	defer cancel()
	if err := a.store.Commit(ctx, store.Group{w})[0].Err; err != nil {
		return err
	}
	a.renewed = now
	return nil
}
