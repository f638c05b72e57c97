package runtime

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/runtime-spec/specs-go"

	"lockstep/nodeagent/process"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
)

const (
	// execOutput bounds what is kept of a command's output, as Kubernetes does
	// for exec probes.
	execOutput = 10 << 10
	// drainTimeout is how long a command that has ended is listened to when a
	// child of it holds its output: what it wrote itself is here within
	// milliseconds.
	drainTimeout = 500 * time.Millisecond
	// killRounds is how often the processes of a command are looked for: one
	// that forks while it is being killed is found by the next look.
	killRounds = 3
)

// Exec runs a command in a container with the container's own user,
// environment and rights. It returns the exit code and the first 10 KiB of its
// output; an error says that it could not be run or ended with ctx, and then
// is ctx's.
//
// It returns when the command has ended or ctx has, whatever goes on. Processes
// that the command left behind stay, as in Kubernetes, but their output goes
// nowhere; with ctx all of its session are killed.
func (r *Runtime) Exec(ctx context.Context, id string, command []string) (int, []byte, error) {
	return r.ExecBegun(ctx, id, command, func() {})
}

// ExecBegun is Exec for who wants to know from when on the command runs: how long containerd takes to start it is not the
// command's doing. Within 30 s it calls began or returns an error.
func (r *Runtime) ExecBegun(ctx context.Context, id string, command []string, began func()) (int, []byte, error) {
	code, out, err := r.exec(ctx, id, command, began)
	if err != nil {
		if over := overdue(ctx, err); over != nil {
			return 0, out, over
		}
		return 0, nil, fmt.Errorf("cannot run command in container %s: %w", short(id), err)
	}
	return code, out, nil
}

// overdue is ctx's error, also where containerd has told of its end before our
// own timer has.
func overdue(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	deadline, ok := ctx.Deadline()
	if ok && errors.Is(native(err), context.DeadlineExceeded) && time.Until(deadline) < time.Second {
		return context.DeadlineExceeded
	}
	return nil
}

func (r *Runtime) exec(ctx context.Context, id string, command []string, began func()) (int, []byte, error) {
	meta, cancel := call(ctx, callTimeout)
	defer cancel()
	c, err := r.client.LoadContainer(meta, id)
	if err != nil {
		return 0, nil, err
	}
	spec, err := c.Spec(meta)
	if err != nil {
		return 0, nil, err
	}
	t, err := c.Task(meta, nil)
	if err != nil {
		return 0, nil, err
	}
	out := &bounded{left: execOutput}
	p, err := t.Exec(meta, "exec-"+rand.Text(), processOf(spec, command),
		cio.NewCreator(cio.WithStreams(nil, out, out), cio.WithFIFODir(r.execDir())))
	if err != nil {
		return 0, nil, err
	}
	killed, started := true, make(chan struct{})
	defer func() { r.dispose(id, p, started, killed) }()
	// Not ctx's deadline, which containerd could find passed before we do.
	wait, stop := context.WithCancel(namespaces.WithNamespace(context.WithoutCancel(ctx), Namespace))
	defer stop()
	ended, err := p.Wait(wait)
	if err != nil {
		close(started)
		return 0, nil, err
	}
	var startErr error
	r.killing.Go(func() { // to its end, so that what has been started is known, and can be killed
		defer close(started)
		begin, cancel := call(r.life, callTimeout)
		defer cancel()
		startErr = p.Start(begin)
	})
	select {
	case <-started:
		if startErr != nil {
			return 0, nil, startErr
		}
		began()
	case <-ctx.Done():
		return 0, nil, ctx.Err()
	}
	select {
	case s := <-ended:
		if s.Error() != nil {
			return 0, nil, s.Error()
		}
		killed = false
		r.drain(ctx, p.IO())
		return int(s.ExitCode()), out.Bytes(), nil
	case <-ctx.Done():
		return 0, out.Bytes(), ctx.Err()
	}
}

func processOf(spec *specs.Spec, command []string) *specs.Process {
	p := *spec.Process
	p.Args, p.Terminal = command, false
	return &p
}

// drain waits for the end of the output, which may not come.
func (r *Runtime) drain(ctx context.Context, streams cio.IO) {
	done := make(chan struct{})
	r.behind.Go(func() { // ends when the streams are cut
		streams.Wait()
		close(done)
	})
	timer := time.NewTimer(drainTimeout)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// dispose cuts a command's output, kills what is left of it if its time was
// over, and frees what containerd holds for it. That goes on behind the caller:
// a shim waits some seconds for output that a child still holds. While a
// command is being started its output is read: a shim that finds no reader
// reports that it was not started, and not its number, though it runs.
func (r *Runtime) dispose(id string, p client.Process, started <-chan struct{}, kill bool) {
	killed := make(chan struct{})
	r.killing.Go(func() {
		defer close(killed)
		<-started
		p.IO().Cancel()
		if kill {
			ctx, cancel := call(r.life, callTimeout)
			defer cancel()
			r.killSession(ctx, id, p.Pid())
		}
	})
	r.behind.Go(func() {
		<-killed
		ctx, cancel := call(r.life, callTimeout)
		defer cancel()
		if _, err := p.Delete(ctx, client.WithProcessKill); err != nil {
			r.opts.Log.Debug("cannot remove command", "container", short(id), "error", err)
		}
		p.IO().Wait()
		_ = p.IO().Close() // a second time where Delete has
	})
}

// killSession kills all processes of a container that are in the session which
// the OCI runtime made for a command.
func (r *Runtime) killSession(ctx context.Context, id string, leader uint32) {
	if leader == 0 {
		return // it was not started
	}
	for range killRounds {
		res, err := r.client.TaskService().ListPids(ctx, &tasks.ListPidsRequest{ContainerID: id})
		if err != nil {
			return // it is gone, with its processes
		}
		found := false
		for _, p := range res.Processes {
			pid := int(p.Pid)
			found = process.Kill(pid, func() bool { return process.Session(pid) == int(leader) }) || found
		}
		if !found {
			return
		}
	}
}

// ForgetCommands removes the pipes of commands that were run before, by an
// agent that was killed: nobody reads them.
func (r *Runtime) ForgetCommands() error {
	if err := os.RemoveAll(r.execDir()); err != nil {
		return fmt.Errorf("cannot remove pipes of earlier commands: %w", err)
	}
	return nil
}

func (r *Runtime) execDir() string { return filepath.Join(r.opts.RunDir, "exec") }

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
