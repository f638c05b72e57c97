package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"lockstep/reconcilers/apiservers"
	"lockstep/store"
	"lockstep/store/memory"
)

func TestAnnounce(t *testing.T) {
	start := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	now, serving := start, start.Add(-time.Second)
	s := memory.New()
	told := apiservers.Told{Version: "v1", Format: 2, Keys: []string{"a", "b"}, Writes: "b"}
	a := &announcer{
		told:  func() apiservers.Told { return told },
		store: s, name: "one", at: netip.MustParseAddrPort("192.0.2.1:6443"), log: slog.New(slog.DiscardHandler),
		now: func() time.Time { return now }, serving: func() time.Time { return serving },
	}
	expect := func(what string, since time.Time) {
		t.Helper()
		if err := a.renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		servers, until := apiservers.Running(s.View(), now)
		if len(servers) != 1 || servers[0] != a.at || !until.Equal(now.Add(apiservers.Patience)) {
			t.Errorf("%s: %v run until %v", what, servers, until)
		}
		if got := apiservers.Servers(s.View(), now); len(got) != 1 || got[0].Name != "one" || !got[0].Runs ||
			!reflect.DeepEqual(got[0].Told, told) {
			t.Errorf("%s: it tells %+v", what, got)
		}
		if got, ok := apiservers.Since(s.View(), now); !ok || !got.Equal(since) {
			t.Errorf("%s: heartbeats are taken since %v, want %v", what, got, since)
		}
	}
	expect("at the start", start)
	uid := s.View().Get(apiservers.Key("one")).GetUID()
	now = start.Add(apiservers.Period)
	expect("renewed", start)
	if got := s.View().Get(apiservers.Key("one")).GetUID(); got != uid || uid == "" {
		t.Errorf("renewed as %q, made as %q", got, uid)
	}
	now, serving = start.Add(2*apiservers.Period), start.Add(8*time.Second)
	expect("after etcd was away for a moment", serving)
	now = now.Add(time.Minute)
	expect("after the process stood still", now)
}

// TestAnnounceInAnOutage: a server that renews its lease each two seconds fills no log while etcd is away; what is wrong is told.
func TestAnnounceInAnOutage(t *testing.T) {
	wrapped := func(err error) error { return fmt.Errorf("cannot write: %w", err) }
	for err, want := range map[error]bool{
		wrapped(store.ErrUnavailable): true, wrapped(store.ErrUnknown): true, wrapped(store.ErrConflict): true,
		wrapped(context.DeadlineExceeded): true, errors.New("the lease is invalid"): false, wrapped(store.ErrTooLarge): false,
	} {
		if got := passing(err); got != want {
			t.Errorf("%v: %v, want %v", err, got, want)
		}
	}
}

func TestAnnounceUntilItEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := memory.New()
	a := &announcer{
		told: func() apiservers.Told { return apiservers.Told{} }, store: s, name: "one",
		at: netip.MustParseAddrPort("192.0.2.1:6443"), now: time.Now, serving: time.Now,
		log: slog.New(slog.DiscardHandler),
	}
	ended := make(chan error, 1)
	go func() { ended <- a.run(ctx) }()
	for end := time.Now().Add(20 * time.Second); s.View().Get(apiservers.Key("one")) == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("there is no lease")
		}
	}
	a.withdraw(ctx)
	if err := a.renew(ctx); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("run = %v", err)
	}
	if servers, _ := apiservers.Running(s.View(), time.Now()); len(servers) > 0 {
		t.Errorf("after it has stopped %v run", servers)
	}
}
