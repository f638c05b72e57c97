package store_test

import (
	"context"
	"errors"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"lockstep/daemon/etcd/etcdtest"
	"lockstep/internal/eventually"
	"lockstep/store"
)

// leftover makes the key of a leader that died without resigning: its lease is not renewed, and lasts for minutes.
func leftover(t *testing.T, client *clientv3.Client) {
	t.Helper()
	lease, err := client.Grant(t.Context(), 600)
	if err != nil {
		t.Fatal(err)
	}
	session, err := concurrency.NewSession(client, concurrency.WithLease(lease.ID))
	if err != nil {
		t.Fatal(err)
	}
	if err := concurrency.NewElection(session, "/lockstep/leader").Campaign(t.Context(), "dead"); err != nil {
		t.Fatal(err)
	}
	session.Orphan()
}

// TestLeadAlone finds a dead leader's key in an etcd that nobody else can reach: it leads at once.
func TestLeadAlone(t *testing.T) {
	client := etcdtest.Client(t)
	s := open(t, client, store.Options{Alone: func() bool { return true }})
	leftover(t, client)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	led := errors.New("led")
	if err := s.Lead(ctx, "a", func(_ context.Context, c store.Committer) error {
		commit(t, c, put(configMap("led", "x"), 0))
		return led
	}); !errors.Is(err, led) {
		t.Fatalf("Lead = %v", err)
	}
	left, err := client.Get(ctx, "/lockstep/leader", clientv3.WithPrefix())
	if err != nil || len(left.Kvs) != 0 {
		t.Errorf("leaders' keys afterwards: %v, %v", left, err)
	}
	leases, err := client.Leases(ctx)
	if err != nil || len(leases.Leases) != 0 {
		t.Errorf("leases afterwards: %v, %v", leases, err)
	}
}

// TestLeadNotAlone finds the same key where its owner may live: it stays out of the way for a while.
func TestLeadNotAlone(t *testing.T) {
	client := etcdtest.Client(t)
	s := open(t, client, store.Options{})
	leftover(t, client)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	leads, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- s.Lead(ctx, "a", func(ctx context.Context, _ store.Committer) error {
			close(leads)
			<-ctx.Done()
			return nil
		})
	}()
	for waiting := false; !waiting; { // two keys: the dead leader's, and the one that waits for it
		select {
		case <-leads:
			t.Fatal("it leads beside another")
		case err := <-done:
			t.Fatal(err)
		case <-time.After(10 * time.Millisecond):
		}
		keys, err := client.Get(ctx, "/lockstep/leader", clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		waiting = len(keys.Kvs) == 2
	}
	select {
	case <-leads:
		t.Fatal("it leads beside another")
	default:
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestSilentLeader finds a leader that does not write its key: it takes over soon, long before the lease runs out, and the one before can
// write no more.
func TestSilentLeader(t *testing.T) {
	client := etcdtest.Client(t)
	s := open(t, client, store.Options{})
	leftover(t, client)
	led := errors.New("led")
	begun := time.Now()
	var took time.Duration
	err := s.Lead(t.Context(), "a", func(context.Context, store.Committer) error {
		took = time.Since(begun)
		eventually.True(t, 10*time.Second, "the view has it lead", func() bool { return s.Leader() == "a" })
		return led
	})
	if !errors.Is(err, led) {
		t.Fatalf("Lead = %v", err)
	}
	if took < 2*time.Second || took > 20*time.Second {
		t.Errorf("it leads after %v", took)
	}
}

// TestLeaderBeats has one wait beside a leader that does nothing but lead, for longer than a silent one may: it stays so. When the one
// that leads goes, the other leads at once; and a leader whose key is taken away ends.
func TestLeaderBeats(t *testing.T) {
	client := etcdtest.Client(t)
	first, second := open(t, client, store.Options{}), open(t, client, store.Options{})
	type lead struct {
		stop  context.CancelFunc
		leads chan struct{}
		ended chan struct{}
		done  chan error
	}
	begin := func(s *store.Store, id string) lead {
		ctx, stop := context.WithCancel(t.Context())
		l := lead{stop, make(chan struct{}, 9), make(chan struct{}, 9), make(chan error, 1)}
		go func() {
			l.done <- s.Lead(ctx, id, func(ctx context.Context, _ store.Committer) error {
				l.leads <- struct{}{}
				<-ctx.Done()
				l.ended <- struct{}{}
				return nil
			})
		}()
		return l
	}
	a := begin(first, "a")
	<-a.leads
	b := begin(second, "b")
	select {
	case <-b.leads:
		t.Fatal("it leads beside another")
	case <-time.After(4 * time.Second): // twice what a silent leader is waited for
	}
	if first.Leader() != "a" || second.Leader() != "a" {
		t.Errorf("the leader is %q, or %q", first.Leader(), second.Leader())
	}
	a.stop()
	begun := time.Now()
	<-b.leads
	if took := time.Since(begun); took > time.Second {
		t.Errorf("after a farewell it took %v", took)
	}
	keys, err := client.Get(t.Context(), "/lockstep/leader", clientv3.WithPrefix())
	if err != nil || len(keys.Kvs) != 1 {
		t.Fatalf("there are %v, %v", keys, err)
	}
	if _, err := client.Delete(t.Context(), string(keys.Kvs[0].Key)); err != nil {
		t.Fatal(err)
	}
	<-b.ended
	b.stop()
	for _, l := range []lead{a, b} {
		if err := <-l.done; err != nil {
			t.Error(err)
		}
	}
}
