package runtime

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"lockstep/nodeagent/process"
)

// execServer is a containerd with one container whose commands run on this
// machine: as there, each is the leader of a session, its pipes stay open for
// as long as the shim has them, and it is not deleted while a child may print.
type execServer struct {
	tasks.UnimplementedTasksServer

	mu      sync.Mutex
	stdout  *os.File
	cmd     *exec.Cmd
	ended   chan struct{}
	deleted int
	drain   time.Duration // how long a shim waits for output before a command is deleted
	begins  time.Duration // how long a command has run when the shim opens its output
}

// oneContainer has the record of the container.
type oneContainer struct {
	containersapi.UnimplementedContainersServer
}

func (oneContainer) Get(context.Context, *containersapi.GetContainerRequest) (*containersapi.GetContainerResponse, error) {
	spec, err := typeurl.MarshalAny(&specs.Spec{Process: &specs.Process{Args: []string{"main"}}})
	if err != nil {
		return nil, err
	}
	return &containersapi.GetContainerResponse{Container: &containersapi.Container{ID: "c",
		Spec: &anypb.Any{TypeUrl: spec.GetTypeUrl(), Value: spec.GetValue()}}}, nil
}

func (s *execServer) Get(_ context.Context, req *tasks.GetRequest) (*tasks.GetResponse, error) {
	p := &task.Process{ID: "c", Pid: 1, Status: task.Status_RUNNING}
	if req.ExecID != "" {
		select {
		case <-s.ended:
			p.Status = task.Status_STOPPED
		default:
		}
	}
	return &tasks.GetResponse{Process: p}, nil
}

func (s *execServer) Exec(_ context.Context, req *tasks.ExecProcessRequest) (*emptypb.Empty, error) {
	var p specs.Process
	if err := typeurl.UnmarshalTo(req.Spec, &p); err != nil {
		return nil, err
	}
	out, err := os.OpenFile(req.Stdout, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stdout, s.ended = out, make(chan struct{})
	s.cmd = exec.Command(p.Args[0], p.Args[1:]...)
	// The shim copies from a pipe of its own; here the pipe is the command's.
	if s.cmd.Stdout, err = os.OpenFile(req.Stdout, os.O_WRONLY, 0); err != nil {
		return nil, err
	}
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return &emptypb.Empty{}, nil
}

func (s *execServer) Start(context.Context, *tasks.StartRequest) (*tasks.StartResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	s.cmd.Stdout.(*os.File).Close()
	time.Sleep(s.begins)
	path := s.stdout.Name()
	s.stdout.Close() // the command alone has it: its end of file is what the shim would pass on
	go func(cmd *exec.Cmd, ended chan struct{}) {
		_ = cmd.Wait()
		close(ended)
	}(s.cmd, s.ended)
	out, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
	if err != nil { // nobody reads it; the shim would wait first
		select {
		case <-s.ended: // it was read to its end
		case <-time.After(time.Second):
			return nil, err
		}
	}
	defer out.Close()
	return &tasks.StartResponse{Pid: uint32(s.cmd.Process.Pid)}, nil
}

func (s *execServer) Wait(ctx context.Context, _ *tasks.WaitRequest) (*tasks.WaitResponse, error) {
	select {
	case <-s.ended:
		return &tasks.WaitResponse{ExitStatus: uint32(s.cmd.ProcessState.ExitCode())}, nil
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

func (s *execServer) Kill(_ context.Context, req *tasks.KillRequest) (*emptypb.Empty, error) {
	select {
	case <-s.ended:
		return nil, status.Error(codes.NotFound, "process already finished")
	default:
	}
	return &emptypb.Empty{}, s.cmd.Process.Signal(syscall.Signal(req.Signal))
}

func (s *execServer) ListPids(context.Context, *tasks.ListPidsRequest) (*tasks.ListPidsResponse, error) {
	res := &tasks.ListPidsResponse{}
	for _, pid := range process.All() {
		if process.Session(pid) == s.cmd.Process.Pid || pid == os.Getpid() {
			res.Processes = append(res.Processes, &task.ProcessInfo{Pid: uint32(pid)})
		}
	}
	return res, nil
}

func (s *execServer) DeleteProcess(context.Context, *tasks.DeleteProcessRequest) (*tasks.DeleteResponse, error) {
	time.Sleep(s.drain)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deleted++
	return &tasks.DeleteResponse{}, nil
}

// done is how many commands have been deleted.
func (s *execServer) done() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.deleted
}

// open serves, and is a runtime that is connected.
func (s *execServer) open(t *testing.T) *Runtime {
	socket := filepath.Join(t.TempDir(), "c.sock")
	serveWith(t, socket, func(g *grpc.Server) {
		containersapi.RegisterContainersServer(g, oneContainer{})
		tasks.RegisterTasksServer(g, s)
	})
	r, err := Open(Options{Address: socket, RunDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// gone waits until the last command's processes have ended, which a signal does not: it returns how many have not.
func (s *execServer) gone() (n int) {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if n = s.left(); n == 0 || time.Now().After(deadline) {
			return n
		}
	}
}

// left is how many processes there are of the last command.
func (s *execServer) left() (n int) {
	for _, pid := range process.All() {
		if process.Session(pid) == s.cmd.Process.Pid {
			n++
		}
	}
	return n
}

// TestExec has commands that end, that leave a child with their output, and that
// do not end.
func TestExec(t *testing.T) {
	s := &execServer{drain: 300 * time.Millisecond}
	r := s.open(t)
	try := func(script string, timeout time.Duration) (int, string, time.Duration, error) {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		want, began := s.done()+1, time.Now()
		code, out, err := r.Exec(ctx, "c", []string{"sh", "-c", script})
		took := time.Since(began)
		for deadline := time.Now().Add(20 * time.Second); s.done() < want && time.Now().Before(deadline); {
			time.Sleep(10 * time.Millisecond) // the server knows one command at a time
		}
		return code, string(out), took, err
	}
	if code, out, _, err := try("echo word; exit 3", time.Minute); code != 3 || out != "word\n" || err != nil {
		t.Errorf("one that ends: %d, %q, %v", code, out, err)
	}
	if code, out, took, err := try("echo word; sleep 1000 & exit 4", time.Minute); code != 4 || out != "word\n" ||
		err != nil || took > 20*time.Second {
		t.Errorf("one with a child: %d, %q, %v after %s", code, out, err, took)
	}
	if n := s.left(); n != 1 {
		t.Errorf("%d processes left behind, want the child", n)
	} else if err := syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if code, _, _, err := try("sleep 1000 & exit 5", 10*time.Second); code != 5 || err != nil {
		t.Errorf("one that ends in time, and its child does not: %d, %v", code, err)
	}
	if err := syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if _, out, took, err := try("echo word; sleep 1000 & sleep 1000", time.Second); !errors.Is(err, context.DeadlineExceeded) ||
		took > 20*time.Second {
		t.Errorf("one without end: %q, %v after %s", out, err, took)
	}
	began := time.Now()
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > killTimeout+10*time.Second {
		t.Errorf("Close took %s", took)
	}
	if n := s.gone(); n != 0 {
		t.Errorf("%d processes left of one that was killed", n)
	}
	if n := s.done(); n != 4 {
		t.Errorf("%d of 4 commands deleted", n)
	}
	if files, _ := filepath.Glob(filepath.Join(r.execDir(), "*")); len(files) > 0 {
		t.Errorf("pipes left: %s", strings.Join(files, " "))
	}
}

// TestExecBeginsLate has a command whose time is over while the shim still
// starts it: it is known, and killed, all the same.
func TestExecBeginsLate(t *testing.T) {
	s := &execServer{begins: 2 * time.Second}
	r := s.open(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, _, err := r.Exec(ctx, "c", []string{"sh", "-c", "sleep 1000 & sleep 1000"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one that begins for longer than it has: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if n := s.gone(); n != 0 {
		t.Errorf("%d processes left of one that was killed", n)
		_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
	}
}
