package store_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"lockstep/daemon/etcd"
	"lockstep/daemon/etcd/etcdtest"
	"lockstep/store"
	"lockstep/store/conformance"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// open runs a store until the test ends.
func open(t testing.TB, client *clientv3.Client, opts store.Options) *store.Store {
	t.Helper()
	if opts.Log == nil {
		opts.Log = quiet
	}
	ctx, cancel := context.WithCancel(context.Background())
	s, err := store.Open(ctx, client, opts)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-s.Ready():
	case <-time.After(20 * time.Second):
		t.Fatalf("the store is not ready: %v", s.Health())
	}
	return s
}

func TestConformance(t *testing.T) {
	t.Run("embedded", func(t *testing.T) { conform(t, etcdtest.Client(t)) })
	t.Run("external", func(t *testing.T) {
		endpoints, files := etcdtest.External(t)
		e, err := etcd.Start(t.Context(), etcd.Options{Endpoints: endpoints, TLS: files, Log: quiet})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { e.Close() })
		conform(t, e.Client)
	})
}

func conform(t *testing.T, client *clientv3.Client) {
	n := 0
	conformance.Run(t, func(t *testing.T) store.Backend {
		n++
		return open(t, client, store.Options{Prefix: fmt.Sprintf("/test-%d/", n), BeatEvery: 50 * time.Millisecond})
	})
}
