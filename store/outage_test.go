package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"

	"lockstep/daemon/etcd"
	"lockstep/daemon/etcd/etcdtest"
	"lockstep/internal/eventually"
	"lockstep/kinds"
	"lockstep/store"
	"lockstep/store/view"
)

// cutter is a watcher whose watches can be cut, and held off until healed.
type cutter struct {
	clientv3.Watcher

	mu     sync.Mutex
	cancel context.CancelFunc
	held   chan struct{}
}

func (c *cutter) Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	c.mu.Lock()
	held := c.held
	c.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-ctx.Done():
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	c.mu.Lock()
	c.cancel = cancel
	c.mu.Unlock()
	return c.Watcher.Watch(ctx, key, opts...)
}

func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = make(chan struct{})
	c.cancel()
}

func (c *cutter) heal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.held)
	c.held = nil
}

// TestCutWatch changes things while the watch is cut, with and without compaction: each change is told once.
func TestCutWatch(t *testing.T) {
	for _, compact := range []bool{false, true} {
		t.Run(fmt.Sprintf("compacted=%v", compact), func(t *testing.T) {
			client := etcdtest.Client(t)
			watcher := &cutter{Watcher: client.Watcher}
			client.Watcher = watcher
			s := open(t, client, store.Options{})
			record := store.Write{Record: &view.Record{Table: "t", Name: "gone", Data: []byte(`1`)}}
			commit(t, s, store.Group{record})
			commit(t, s, put(configMap("same", "1"), 0))
			commit(t, s, put(configMap("changed", "1"), 0))
			v := wait(t, s, commit(t, s, put(configMap("deleted", "1"), 0)))
			changed, _ := view.Get[*corev1.ConfigMap](v, "shop", "changed")
			deleted, _ := view.Get[*corev1.ConfigMap](v, "shop", "deleted")
			sub := s.Subscribe("test")
			defer sub.Close()

			watcher.cut()
			commit(t, s, put(configMap("changed", "2"), kinds.Revision(changed)))
			commit(t, s, store.Group{{Key: view.Change{}.Key, Record: &view.Record{Table: "t", Name: "gone"}, If: store.Anyway}})
			gone := put(deleted, kinds.Revision(deleted))
			gone[0].Object = nil
			commit(t, s, gone)
			rev := commit(t, s, put(configMap("created", "1"), 0))
			if compact {
				if _, err := client.Compact(t.Context(), rev); err != nil {
					t.Fatal(err)
				}
			}
			watcher.heal()

			got := map[string]bool{}
			for len(got) < 4 {
				select {
				case b := <-sub.C:
					for _, c := range b.Changes {
						text := fmt.Sprintf("%s %v %v", c.Key.Name, c.Old != nil, c.New != nil)
						if c.OldRecord != nil {
							text = fmt.Sprintf("record %s %v", c.OldRecord.Name, c.NewRecord != nil)
						}
						if got[text] {
							t.Errorf("told twice: %s", text)
						}
						got[text] = true
					}
				case <-time.After(20 * time.Second):
					t.Fatalf("only %v", got)
				}
			}
			for _, want := range []string{"changed true true", "deleted true false", "created false true", "record gone false"} {
				if !got[want] {
					t.Errorf("not told: %s, but %v", want, got)
				}
			}
			if v := wait(t, s, rev); v.Revision() < rev {
				t.Errorf("the view is at %d", v.Revision())
			}
		})
	}
}

// until waits for a state of the store's health.
func until(t *testing.T, s *store.Store, want error) {
	t.Helper()
	eventually.Nil(t, 30*time.Second, "another health", func() error {
		if got := s.Health(); !errors.Is(got, want) {
			return fmt.Errorf("it is %v, want %v", got, want)
		}
		return nil
	})
}

// TestEtcdGone stops etcd under a running store and starts it again.
func TestEtcdGone(t *testing.T) {
	sockets, err := os.MkdirTemp("", "ls")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(sockets)
	opts := etcd.Options{DataDir: t.TempDir(), SocketDir: sockets, Log: quiet}
	start := func() *etcd.Etcd {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		e, err := etcd.Start(ctx, opts)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	first := start()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + first.Socket()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	s := open(t, client, store.Options{})
	wait(t, s, commit(t, s, put(configMap("before", "1"), 0)))
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}

	until(t, s, store.ErrGone)
	if !strings.Contains(s.Health().Error(), "etcd does not answer (for ") {
		t.Errorf("health says %q", s.Health())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if r := s.Commit(ctx, put(configMap("during", "1"), 0))[0]; r.Err == nil {
		t.Error("a commit succeeded without etcd")
	}
	if _, ok := view.Get[*corev1.ConfigMap](s.View(), "shop", "before"); !ok {
		t.Error("the view is gone with etcd")
	}

	if _, err := s.Current(t.Context()); !errors.Is(err, store.ErrGone) {
		t.Errorf("Current without etcd: %v", err)
	}
	if since := time.Since(s.ServingSince()); since > time.Second {
		t.Errorf("it counts as serving for %v", since)
	}
	away := time.Now()
	second := start()
	defer second.Close()
	until(t, s, nil)
	if !s.ServingSince().After(away) {
		t.Error("silence in the outage is held against nodes")
	}
	v := wait(t, s, commit(t, s, put(configMap("after", "1"), 0)))
	if _, ok := view.Get[*corev1.ConfigMap](v, "shop", "before"); !ok {
		t.Error("the object from before is gone")
	}
}

// TestEtcdFull fills etcd with history, sees the state, and has the maintenance free it.
func TestEtcdFull(t *testing.T) {
	e := etcdtest.Start(t, func(o *etcd.Options) {
		o.QuotaBytes = 8 << 20
		o.CheckEvery = 100 * time.Millisecond
	})
	s := open(t, e.Client, store.Options{})
	big := configMap("big", strings.Repeat("x", 500<<10))
	var r store.Result
	// Etcd learns the size of its file only when it commits to the disk, every 100 ms.
	for end := time.Now().Add(20 * time.Second); r.Err == nil && time.Now().Before(end); {
		r = s.Commit(t.Context(), put(big, store.Anyway))[0]
	}
	if !errors.Is(r.Err, store.ErrUnavailable) {
		t.Fatalf("commit into a full etcd = %+v", r)
	}
	until(t, s, store.ErrFull)
	if _, err := s.Current(t.Context()); err != nil {
		t.Errorf("reads do not work either: %v", err)
	}
	if _, err := store.Open(t.Context(), e.Client, store.Options{}); err != nil {
		t.Errorf("a server that starts beside a full etcd, which it is to mend, ends: %v", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	until(t, s, nil)
	commit(t, s, put(big, store.Anyway))
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(filepath.Dir(e.Socket())); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the socket's directory is %v, %v", info.Mode(), err)
	}
}

// TestHistoryAfterCompaction wants to be told how far back history goes.
func TestHistoryAfterCompaction(t *testing.T) {
	client := etcdtest.Client(t)
	s := open(t, client, store.Options{})
	from := commit(t, s, put(configMap("a", "1"), 0))
	compacted := commit(t, s, put(configMap("b", "1"), 0))
	to := commit(t, s, put(configMap("c", "1"), 0))
	if _, err := client.Compact(t.Context(), compacted); err != nil {
		t.Fatal(err)
	}
	since, changes, err := s.History(t.Context(), from-1, to)
	if err != nil || since < from || since > compacted {
		t.Fatalf("history since %d, want from %d to %d: %v", since, from, compacted, err)
	}
	if n := len(changes); n == 0 || changes[n-1].Key.Name != "c" || changes[0].Revision <= since {
		t.Errorf("changes %+v", changes)
	}
}
