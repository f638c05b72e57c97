package etcdtest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"lockstep/daemon/etcd"
	"lockstep/internal/loopback"
)

// processEnv holds what the test binary is to run as an etcd server.
const processEnv = "LOCKSTEP_TEST_ETCD"

// Process is an external etcd in a process of its own, which can be stopped and killed. It listens with TLS on loopback
// and wants client certificates.
type Process struct {
	Endpoints []string
	TLS       etcd.TLS

	t    testing.TB
	env  string
	cmd  *exec.Cmd
	done chan struct{}
}

// serving is what the child is told.
type serving struct {
	DataDir, SocketDir string
	Peer               *etcd.Peer
	QuotaBytes         int64
}

// Main makes the test binary an etcd server where a Process has started it as one, and then does not return. TestMain
// calls it first.
func Main() {
	text := os.Getenv(processEnv)
	if text == "" {
		return
	}
	if err := serve(text); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(text string) error {
	var s serving
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return fmt.Errorf("cannot read %s: %w", processEnv, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := etcd.Start(ctx, etcd.Options{
		Name: "external", DataDir: s.DataDir, SocketDir: s.SocketDir, Peer: s.Peer, QuotaBytes: s.QuotaBytes,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}); err != nil {
		return err
	}
	select {} // until it is killed
}

// NewProcess returns a server that is not started yet, with a quota, or etcd's default for zero. It is killed with the
// test.
func NewProcess(t testing.TB, quota int64) *Process {
	t.Helper()
	files := certificates(t)
	peer, client := loopback.Free(t).String(), "https://"+loopback.Free(t).String()
	sockets, err := os.MkdirTemp("", "ls")
	if err != nil {
		t.Fatal(err)
	}
	env, err := json.Marshal(serving{
		DataDir: t.TempDir(), SocketDir: sockets, QuotaBytes: quota,
		Peer: &etcd.Peer{Listen: peer, URL: "https://" + peer, Client: client, TLS: files},
	})
	if err != nil {
		t.Fatal(err)
	}
	p := &Process{Endpoints: []string{client}, TLS: files, t: t, env: processEnv + "=" + string(env)}
	t.Cleanup(func() {
		p.Kill()
		if err := os.RemoveAll(sockets); err != nil {
			t.Error(err)
		}
	})
	return p
}

// Start starts the server, again after a Kill, on the same data. It does not wait until it answers.
func (p *Process) Start() {
	p.t.Helper()
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env = append(os.Environ(), p.env, "GRPC_GO_LOG_SEVERITY_LEVEL=none") // it tells of every client that goes
	p.cmd.Stderr = os.Stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) { // ends with the process
		defer close(done)
		_ = cmd.Wait()
	}(p.cmd, p.done)
}

// Stop has the server stand still: connections stay open and nobody answers.
func (p *Process) Stop() { p.signal(syscall.SIGSTOP) }

// Continue ends Stop.
func (p *Process) Continue() { p.signal(syscall.SIGCONT) }

// Kill kills the server with SIGKILL. Its data stays.
func (p *Process) Kill() {
	if p.cmd == nil {
		return
	}
	p.signal(syscall.SIGKILL)
	<-p.done
	p.cmd = nil
}

func (p *Process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		select {
		case <-p.done:
			p.t.Error("etcd has ended by itself")
		case <-time.After(time.Second):
			p.t.Error(err)
		}
	}
}

// Connect returns a client of the server, for as long as the test lasts.
func (p *Process) Connect(ctx context.Context) *clientv3.Client {
	p.t.Helper()
	e, err := etcd.Start(ctx, etcd.Options{Endpoints: p.Endpoints, TLS: p.TLS, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = e.Close() })
	return e.Client
}
