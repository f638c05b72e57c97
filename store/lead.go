package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"lockstep/internal/sleep"
)

const (
	// leaderTTL in seconds is Kubernetes' lease duration for its controllers: how long a leader that cannot reach etcd goes on for.
	// A dead one is waited for much shorter: see overseer.
	leaderTTL = 15
	// resignTimeout bounds the farewell; without it the lease just runs out.
	resignTimeout = 2 * time.Second
	// campaignPause is the pause after a campaign that failed.
	campaignPause = time.Second
)

// Lead runs f while this process leads; see Backend.
func (s *Store) Lead(ctx context.Context, id string, f func(ctx context.Context, c Committer) error) error {
	for ctx.Err() == nil {
		ended, err := s.term(ctx, id, f)
		if ended {
			return err
		}
		if err != nil && ctx.Err() == nil {
			s.warn(ctx, "leading was interrupted", "id", id, "error", err)
			sleep.For(ctx, campaignPause)
		}
	}
	return nil
}

// term campaigns once and leads until the lease is lost, ctx ends or f ends by itself, which is told by ended.
func (s *Store) term(ctx context.Context, id string, f func(ctx context.Context, c Committer) error) (ended bool, err error) {
	if s.alone() {
		if err := s.bury(ctx); err != nil {
			return false, fmt.Errorf("cannot take over from a dead leader: %w", err)
		}
	}
	session, err := s.session(ctx)
	if err != nil {
		return false, fmt.Errorf("cannot get a lease to lead: %w", err)
	}
	election := concurrency.NewElection(session, s.keys.leader())
	defer func() {
		bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), resignTimeout)
		defer cancel()
		session.Orphan()
		if _, revokeErr := s.client.Revoke(bye, session.Lease()); revokeErr != nil {
			s.log.Debug("cannot give up the leader's lease, it runs out by itself", "error", revokeErr)
		}
	}()
	campaign, stop := endWith(ctx, session.Done())
	defer stop()
	mine := fmt.Sprintf("%s/%x", s.keys.leader(), session.Lease()) // as the election names it
	o := &overseer{store: s, id: id, mine: mine, lease: session.Lease(), lost: stop}
	var overseeing sync.WaitGroup
	overseeing.Go(func() { o.run(campaign) })
	defer overseeing.Wait()
	defer stop()
	if err := election.Campaign(campaign, id); err != nil {
		return false, fmt.Errorf("cannot campaign: %w", err)
	}
	s.log.Info("this process leads", "id", id)
	s.metrics.leading.Set(1)
	defer s.metrics.leading.Set(0)
	// A new leader decides from what its predecessor wrote.
	if rev, err := s.reads.get(campaign); err != nil {
		return false, fmt.Errorf("cannot learn the revision to lead from: %w", err)
	} else if _, err := s.Wait(campaign, rev); err != nil {
		return false, err
	}
	term, lose := context.WithCancel(campaign)
	defer lose()
	err = f(term, &leaderCommitter{store: s, term: term, lose: lose, guard: &guard{
		cmp: clientv3.Compare(clientv3.CreateRevision(election.Key()), "=", election.Rev()),
	}})
	if term.Err() == nil {
		return true, err
	}
	if ctx.Err() != nil || err == nil || errors.Is(err, context.Canceled) {
		return false, nil
	}
	return false, err
}

// bury removes what earlier leaders left when they could not resign. It is for a store that is alone: between terms it
// has no lease of its own.
func (s *Store) bury(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	left, err := s.client.Get(ctx, s.keys.leader()+"/", clientv3.WithPrefix()) // keys alone come without their leases
	if err != nil {
		return err
	}
	for _, kv := range left.Kvs {
		_, err := s.client.Revoke(ctx, clientv3.LeaseID(kv.Lease)) // the key goes with it
		if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return err
		}
	}
	if len(left.Kvs) > 0 { // also those that somebody wrote without a lease
		_, err = s.client.Delete(ctx, s.keys.leader()+"/", clientv3.WithPrefix())
	}
	return err
}

// session makes a lease that is kept alive until the session is orphaned or etcd is away for longer than it lasts.
func (s *Store) session(ctx context.Context) (*concurrency.Session, error) {
	grant, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	lease, err := s.client.Grant(grant, leaderTTL)
	if err != nil {
		return nil, err
	}
	return concurrency.NewSession(s.client, concurrency.WithLease(lease.ID), concurrency.WithTTL(leaderTTL), concurrency.WithContext(ctx))
}

// endWith returns a ctx that also ends when done is closed. Stop must be called.
func endWith(ctx context.Context, done <-chan struct{}) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var waiting sync.WaitGroup
	waiting.Go(func() {
		select {
		case <-done:
			cancel()
		case <-ctx.Done():
		}
	})
	return ctx, func() { cancel(); waiting.Wait() }
}

// leaderCommitter writes only while its term lasts: etcd compares the leader's key in the same transaction.
type leaderCommitter struct {
	store *Store
	term  context.Context
	lose  func() // ends the term: a write has shown that the leader's key is not ours
	guard *guard
}

// Commit writes the groups, or fails them with ErrDeposed once another leads.
func (l *leaderCommitter) Commit(ctx context.Context, groups ...Group) []Result {
	if l.term.Err() != nil {
		out := make([]Result, len(groups))
		for i := range out {
			out[i].Err = ErrDeposed
		}
		return out
	}
	out := l.store.commit(ctx, l.guard, groups)
	for _, r := range out {
		if errors.Is(r.Err, ErrDeposed) {
			l.lose()
		}
	}
	return out
}
