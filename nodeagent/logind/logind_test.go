package logind

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lockstep/internal/eventually"
	"lockstep/nodeagent/logind/logindtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, b *logindtest.Bus) *Conn {
	t.Helper()
	c, err := Open(t.Context(), b.Path, b.ConfDir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestShutdown: a shutdown waits for whoever holds it, is told, and called off again.
func TestShutdown(t *testing.T) {
	b := logindtest.New(t)
	c := open(t, b)
	release, err := c.Hold(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !b.Held() {
		t.Error("nothing is held")
	}
	want := `["shutdown" "lockstep" "The node ends its pods in their order" "delay"]`
	if got := b.Asked(); len(got) != 1 || got[0] != want {
		t.Errorf("asked for %q", got)
	}
	for _, soon := range []bool{true, false} {
		b.Pretend(!soon)
		b.Shutdown(soon)
		if got, err := c.Next(t.Context()); got != soon || err != nil {
			t.Errorf("told %v: %v, %v", soon, got, err)
		}
	}
	release()
	release()
	eventually.True(t, 10*time.Second, "the inhibitor is let go", func() bool { return !b.Held() })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	b.Cut()
	if _, err := c.Next(t.Context()); err == nil {
		t.Error("a bus that has ended is no error")
	}
}

// TestAllow: logind is told to wait for longer where it would not, by a file that Forget removes.
func TestAllow(t *testing.T) {
	b := logindtest.New(t)
	c := open(t, b)
	if err := c.Allow(t.Context(), 5*time.Second); err != nil || len(b.Asked()) > 0 {
		t.Errorf("it waits that long: %v, %q", err, b.Asked())
	}
	if err := c.Allow(t.Context(), 30*time.Second); err != nil {
		t.Fatal(err)
	}
	if got := b.Asked(); !slices.Equal(got, []string{`["systemd-logind.service" "all" '\x01']`}) {
		t.Errorf("asked for %q", got)
	}
	data, err := os.ReadFile(filepath.Join(b.ConfDir, confFile))
	if err != nil || !strings.HasSuffix(string(data), "[Login]\nInhibitDelayMaxSec=30\n") {
		t.Errorf("%q, %v", data, err)
	}
	for range 2 {
		if err := Forget(b.ConfDir); err != nil {
			t.Error(err)
		}
	}
	b.Deaf = true
	want := "logind waits for 30s (InhibitDelayMaxSec), and not for 1m0s"
	if err := c.Allow(t.Context(), time.Minute); err == nil || !strings.Contains(err.Error(), want) {
		t.Error(err)
	}
}

func TestNoBus(t *testing.T) {
	if _, err := Open(t.Context(), filepath.Join(t.TempDir(), "none"), ""); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
}
