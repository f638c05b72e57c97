// Package etcdtest starts etcd servers for tests.
package etcdtest

import (
	"context"
	"io"
	"log/slog"
	"os"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"lockstep/daemon/etcd"
)

// Start starts an embedded etcd in a directory of the test's and stops it with the test. Change, which may be nil,
// changes the options first.
func Start(t testing.TB, change func(*etcd.Options)) *etcd.Etcd {
	t.Helper()
	// Sockets have short paths only; t.TempDir has the test's name in it.
	sockets, err := os.MkdirTemp("", "ls")
	if err != nil {
		t.Fatal(err)
	}
	opts := etcd.Options{DataDir: t.TempDir(), SocketDir: sockets, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	if change != nil {
		change(&opts)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	e, err := etcd.Start(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(sockets); err != nil {
			t.Error(err)
		}
	})
	return e
}

// Client returns the client of an etcd of the test's own.
func Client(t testing.TB) *clientv3.Client {
	t.Helper()
	return Start(t, nil).Client
}
