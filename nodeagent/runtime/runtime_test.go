package runtime

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	versionapi "github.com/containerd/containerd/api/services/version/v1"
	"github.com/containerd/containerd/api/types/task"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

type versionServer struct {
	versionapi.UnimplementedVersionServer
}

func (versionServer) Version(context.Context, *emptypb.Empty) (*versionapi.VersionResponse, error) {
	return &versionapi.VersionResponse{Version: "v2"}, nil
}

func serve(t *testing.T, socket string) *grpc.Server {
	t.Helper()
	return serveWith(t, socket, func(s *grpc.Server) { versionapi.RegisterVersionServer(s, versionServer{}) })
}

func serveWith(t *testing.T, socket string, register func(*grpc.Server)) *grpc.Server {
	t.Helper()
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	register(s)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(listener)
	}()
	t.Cleanup(func() {
		s.Stop()
		<-done
	})
	return s
}

// A containerd that goes away is noticed while it is away and after it is back, by whoever worked with it then.
func TestInterruption(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "c.sock")
	first := serve(t, socket)
	r, err := Open(Options{Address: socket})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctx := t.Context()
	before := r.Interruption()
	if before(ctx) {
		t.Fatal("interrupted, says a connection that was not")
	}
	first.Stop()
	if !before(ctx) {
		t.Error("not interrupted while containerd is away")
	}
	serve(t, socket)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := r.Version(ctx); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it does not come back")
		}
	}
	if !before(ctx) {
		t.Error("not interrupted once containerd is back")
	}
	if r.Interruption()(ctx) {
		t.Error("a new look counts what was before it")
	}
}

// A shim that is too busy to answer says nothing about its container, least of all that it has ended.
func TestNoAnswerIsNoExit(t *testing.T) {
	for status, want := range map[task.Status]State{
		task.Status_UNKNOWN: Unknown, task.Status_CREATED: Created, task.Status_RUNNING: Running, task.Status_STOPPED: Stopped,
	} {
		var c Container
		c.observe(&task.Process{Status: status})
		if c.State != want || c.ExitCode != 0 {
			t.Errorf("%s: state %d, exit code %d", status, c.State, c.ExitCode)
		}
	}
}

// TestStartFailure: only what the OCI runtime says is held against a container.
func TestStartFailure(t *testing.T) {
	for text, want := range map[string]bool{
		`failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: "x": ` +
			`executable file not found in $PATH: unknown`: true,
		"OCI runtime start failed: cannot start a stopped process: unknown":                                          true,
		"failed to start shim: mkdir /run/containerd/io.containerd.runtime.v2.task/lockstep/aefe5ac2db: file exists": false,
		"ttrpc: closed: unknown": false,
	} {
		err := startFailure("create containerd task", status.Error(codes.Unknown, text))
		if failed := (*StartError)(nil); errors.As(err, &failed) != want {
			t.Errorf("%s: held against the container: %v, want %v", text, !want, want)
		}
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%v does not say %s", err, text)
		}
	}
}

// taskServer has one process, which ends by SIGKILL alone.
type taskServer struct {
	tasks.UnimplementedTasksServer
	killed  chan struct{}
	refused int // how often to answer that time is over, though it is not

	mu      sync.Mutex
	signals []uint32
}

func (s *taskServer) Kill(_ context.Context, req *tasks.KillRequest) (*emptypb.Empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.signals = append(s.signals, req.Signal)
	if syscall.Signal(req.Signal) == syscall.SIGKILL {
		close(s.killed)
	}
	return &emptypb.Empty{}, nil
}

func (s *taskServer) Wait(ctx context.Context, _ *tasks.WaitRequest) (*tasks.WaitResponse, error) {
	s.mu.Lock()
	refused := s.refused > 0
	s.refused--
	s.mu.Unlock()
	if refused {
		return nil, status.Error(codes.DeadlineExceeded, "context deadline exceeded")
	}
	select {
	case <-s.killed:
		return &tasks.WaitResponse{}, nil
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

// TestGraceEndsInKill: containerd's word that time is over, which may come
// before our own clock says so, is not taken for the process's end.
func TestGraceEndsInKill(t *testing.T) {
	for _, refused := range []int{0, 1, 3} {
		socket := filepath.Join(t.TempDir(), "c.sock")
		s := &taskServer{killed: make(chan struct{}), refused: refused}
		serveWith(t, socket, func(g *grpc.Server) { tasks.RegisterTasksServer(g, s) })
		r, err := Open(Options{Address: socket})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		const grace = 500 * time.Millisecond
		began := time.Now()
		if err := r.Stop(t.Context(), "c", syscall.SIGTERM, grace); err != nil {
			t.Errorf("refused %d times: %v", refused, err)
		}
		if took := time.Since(began); took < grace {
			t.Errorf("refused %d times: ended after %s", refused, took)
		}
		if want := []uint32{uint32(syscall.SIGTERM), uint32(syscall.SIGKILL)}; !slices.Equal(s.signals, want) {
			t.Errorf("refused %d times: signals %v, want %v", refused, s.signals, want)
		}
	}
}
