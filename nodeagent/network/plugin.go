package network

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"lockstep/internal/sleep"
)

const (
	// outputDelay is how long a plugin that has ended is listened to when a child
	// of it holds its output.
	outputDelay = time.Second
	// busyTries and busyPause are for a plugin that is just being written.
	busyTries = 5
	busyPause = time.Second
)

// plugins runs CNI plugins. Unlike libcni's own way it returns when a plugin has
// ended or its time is over, whatever a child of it does: one that left a daemon
// behind would hold up its pod for as long as that lives.
type plugins struct{ version.PluginDecoder }

// FindInPath implements invoke.Exec.
func (*plugins) FindInPath(plugin string, paths []string) (string, error) {
	return invoke.FindInPath(plugin, paths)
}

// ExecPlugin implements invoke.Exec.
func (*plugins) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	for try := 0; ; try++ {
		out, err := runPlugin(ctx, path, stdin, environ)
		if !errors.Is(err, syscall.ETXTBSY) || try == busyTries {
			return out, err
		}
		if !sleep.For(ctx, busyPause) {
			return nil, ctx.Err()
		}
	}
}

func runPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	var out, complaints bytes.Buffer
	cmd := exec.CommandContext(ctx, path)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = environ, bytes.NewReader(stdin), &out, &complaints
	// Plugins call others, as for addresses: all of them are killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = outputDelay
	err := cmd.Run()
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return out.Bytes(), nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("plugin did not end in time: %w", ctx.Err())
	case errors.Is(err, syscall.ETXTBSY):
		return nil, err
	}
	told := types.Error{}
	if json.Unmarshal(out.Bytes(), &told) == nil && told.Msg != "" {
		return nil, &told
	}
	if text := strings.TrimSpace(complaints.String()); text != "" {
		return nil, fmt.Errorf("plugin failed: %s", text)
	}
	return nil, fmt.Errorf("plugin failed: %w", err)
}
