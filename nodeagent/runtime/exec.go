package runtime

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"crypto/rand"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
)

// execOutput bounds what is kept of a command's output, as Kubernetes does
// for exec probes.
const execOutput = 10 << 10

// Exec runs a command in a container with the container's own user,
// environment and rights. It returns the exit code and the first 10 KiB of its
// output; an error says that it could not be run or ended with ctx.
func (r *Runtime) Exec(ctx context.Context, id string, command []string) (int, []byte, error) {
	meta, cancel := call(ctx, callTimeout)
	defer cancel()
	c, err := r.client.LoadContainer(meta, id)
	if err != nil {
		return 0, nil, fmt.Errorf("cannot run command in container %s: %w", short(id), err)
	}
	spec, err := c.Spec(meta)
	if err != nil {
		return 0, nil, fmt.Errorf("cannot run command in container %s: %w", short(id), err)
	}
	t, err := c.Task(meta, nil)
	if err != nil {
		return 0, nil, fmt.Errorf("cannot run command in container %s: %w", short(id), err)
	}
	process := *spec.Process
	process.Args, process.Terminal = command, false
	out := &bounded{left: execOutput}
	execID := "exec-" + rand.Text()
	p, err := t.Exec(meta, execID, &process, cio.NewCreator(cio.WithStreams(nil, out, out), cio.WithFIFODir(filepath.Join(r.opts.RunDir, "exec"))))
	if err != nil {
		return 0, nil, fmt.Errorf("cannot run command in container %s: %w", short(id), err)
	}
	defer func() {
		clean, stop := call(context.WithoutCancel(ctx), callTimeout)
		defer stop()
		if _, err := p.Delete(clean, client.WithProcessKill); err != nil {
			r.opts.Log.Debug("cannot remove command", "container", short(id), "error", err)
		}
	}()
	wait, stop := call(ctx, 24*time.Hour) // bounded by the caller
	defer stop()
	ended, err := p.Wait(wait)
	if err != nil {
		return 0, nil, fmt.Errorf("cannot run command in container %s: %w", short(id), err)
	}
	if err := p.Start(meta); err != nil {
		return 0, nil, fmt.Errorf("cannot run command in container %s: %w", short(id), err)
	}
	select {
	case s := <-ended:
		if s.Error() != nil {
			return 0, nil, fmt.Errorf("cannot run command in container %s: %w", short(id), s.Error())
		}
		p.IO().Wait()
		return int(s.ExitCode()), out.Bytes(), nil
	case <-ctx.Done():
		kill, stop := call(context.WithoutCancel(ctx), callTimeout)
		defer stop()
		_ = p.Kill(kill, syscall.SIGKILL) // it may have ended at this moment
		return 0, out.Bytes(), ctx.Err()
	}
}

// bounded keeps the first bytes written to it and counts the rest as written.
type bounded struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	left int
}

func (b *bounded) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(b.left, len(p))
	b.buf.Write(p[:n])
	b.left -= n
	return len(p), nil
}

func (b *bounded) Bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.buf.Bytes())
}
