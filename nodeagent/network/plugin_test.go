package network

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
)

// TestPlugin has plugins that leave a child behind, which holds their output, that do not end, and that fail.
func TestPlugin(t *testing.T) {
	run := func(script string, timeout time.Duration) (string, error) {
		path := filepath.Join(t.TempDir(), "plugin")
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		out, err := (&plugins{}).ExecPlugin(ctx, path, []byte("config"), []string{"A=b", "PATH=/usr/bin:/bin"})
		return string(out), err
	}
	began := time.Now()
	if out, err := run(`sleep 60 & echo "$(cat) $A"`, time.Minute); out != "config b\n" || err != nil {
		t.Errorf("with a child: %q, %v", out, err)
	}
	if out, err := run("sleep 60 & sleep 60", time.Second); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without end: %q, %v", out, err)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("took %s", took)
	}
	told := (*types.Error)(nil)
	if _, err := run(`echo '{"code": 7, "msg": "no address"}'; exit 1`, time.Minute); !errors.As(err, &told) || told.Code != 7 {
		t.Errorf("one that says why it failed: %v", err)
	}
	if _, err := run("echo complaint >&2; exit 1", time.Minute); err == nil || err.Error() != "plugin failed: complaint" {
		t.Errorf("one that complains: %v", err)
	}
}
