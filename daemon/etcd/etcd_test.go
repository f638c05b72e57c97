package etcd_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"lockstep/daemon/etcd"
	"lockstep/daemon/etcd/etcdtest"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func TestExternal(t *testing.T) {
	endpoints, files := etcdtest.External(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	e, err := etcd.Start(ctx, etcd.Options{Endpoints: endpoints, TLS: files, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if _, err := e.Client.Put(ctx, "a", "b"); err != nil || e.Embedded() {
		t.Errorf("put: %v, embedded %v", err, e.Embedded())
	}
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if e, err := etcd.Start(short, etcd.Options{Endpoints: endpoints, TLS: etcd.TLS{CAFile: files.CAFile}, Log: quiet}); err == nil {
		e.Close()
		t.Error("connected without a client certificate")
	} else if !strings.Contains(err.Error(), "cannot reach etcd at "+"["+endpoints[0]) {
		t.Errorf("the error does not name the endpoint: %v", err)
	}
	if _, err := etcd.Start(ctx, etcd.Options{Endpoints: endpoints, TLS: etcd.TLS{CertFile: files.CertFile}}); err == nil {
		t.Error("a certificate without a key was taken")
	}
}

// TestAloneLeadsAtOnce: a member without others does not wait for a random part of etcd's second, 0.59 s in the middle.
func TestAloneLeadsAtOnce(t *testing.T) {
	dir := t.TempDir()
	o := etcd.Options{DataDir: filepath.Join(dir, "etcd"), SocketDir: filepath.Join(dir, "s"), Log: quiet}
	var took []time.Duration
	for range 5 {
		began := time.Now()
		e, err := etcd.Start(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(began))
		for i := range 300 { // which the next start has to apply before
			if _, err := e.Client.Put(t.Context(), "a", strconv.Itoa(i)); err != nil {
				t.Fatal(err)
			}
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if slices.Sort(took); took[len(took)/2] > 400*time.Millisecond {
		t.Errorf("it leads after %v", took)
	}
}

func TestOneProcessOnly(t *testing.T) {
	var opts etcd.Options
	etcdtest.Start(t, func(o *etcd.Options) { opts = *o })
	if e, err := etcd.Start(t.Context(), opts); err == nil {
		e.Close()
		t.Fatal("two servers opened one directory")
	} else if !strings.Contains(err.Error(), "another process uses it") {
		t.Errorf("the error is %v", err)
	}
}

func TestSocketPath(t *testing.T) {
	opts := etcd.Options{DataDir: t.TempDir(), SocketDir: "/tmp/" + strings.Repeat("x", 120), Log: quiet}
	if _, err := etcd.Start(t.Context(), opts); err == nil || !strings.Contains(err.Error(), "107 is the most") {
		t.Errorf("the error is %v", err)
	}
	if _, err := os.Stat(opts.SocketDir); err == nil {
		t.Error("the directory was made")
	}
}

// TestCompaction wants history gone after two rounds, and what the last round saw kept.
func TestCompaction(t *testing.T) {
	e := etcdtest.Start(t, func(o *etcd.Options) { o.CompactEvery = 200 * time.Millisecond })
	first, err := e.Client.Put(t.Context(), "a", "1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Client.Put(t.Context(), "a", "2"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := e.Client.Get(t.Context(), "a", clientv3.WithRev(first.Header.Revision)); err != nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("history is still there")
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if resp, err := e.Client.Get(t.Context(), "a"); err != nil || string(resp.Kvs[0].Value) != "2" {
		t.Errorf("the value is %v, %v", resp, err)
	}
}

// TestRaftLogIsForgotten writes transactions as large as ours may be: etcd keeps few of them in memory, up to 200 by where it is
// between two looks at its log, and the buffers of its file.
func TestRaftLogIsForgotten(t *testing.T) {
	e := etcdtest.Start(t, func(o *etcd.Options) {})
	alive := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := alive()
	const size, writes = 256 << 10, 900
	value := strings.Repeat("x", size)
	for range writes {
		if _, err := e.Client.Put(t.Context(), "a", value); err != nil {
			t.Fatal(err)
		}
	}
	// What waits to be put into the file is alive too, until that is done.
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		after := alive()
		if after <= before+size*writes*2/3 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d MiB are alive after writing %d, %d were before", after>>20, size*writes>>20, before>>20)
		}
	}
}

// TestFoldersArePrivate has nobody but root come to the data or the sockets, also where the folders were there and open.
func TestFoldersArePrivate(t *testing.T) {
	var opts etcd.Options
	etcdtest.Start(t, func(o *etcd.Options) {
		opts = *o
		for _, dir := range []string{o.DataDir, o.SocketDir} {
			if err := errors.Join(os.MkdirAll(dir, 0o755), os.Chmod(dir, 0o755)); err != nil {
				t.Fatal(err)
			}
		}
	})
	for _, dir := range []string{opts.DataDir, opts.SocketDir} {
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", dir, info.Mode(), err)
		}
	}
}
