package store_test

import (
	"context"
	"errors"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"lockstep/daemon/etcd/etcdtest"
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
	s := open(t, client, store.Options{Alone: true})
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

// TestLeadNotAlone finds the same key where its owner may live: it stays out of the way as long as the lease lasts.
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
