package nodeagent

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	version "github.com/containerd/containerd/api/services/version/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"k8s.io/client-go/tools/record"
)

// listenAsContainerd is what this binary does under the name of containerd.
func listenAsContainerd() {
	socket := filepath.Join(filepath.Dir(os.Args[2]), "containerd.sock")
	_ = os.Remove(socket) // of one that was killed
	listener, err := net.Listen("unix", socket)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	server := grpc.NewServer()
	version.RegisterVersionServer(server, answering{})
	fmt.Fprintln(os.Stderr, server.Serve(listener))
	os.Exit(1)
}

// answering is what a containerd always answers.
type answering struct {
	version.UnimplementedVersionServer
}

func (answering) Version(context.Context, *emptypb.Empty) (*version.VersionResponse, error) {
	return &version.VersionResponse{Version: "v1.6.20"}, nil
}

// TestKeepContainerd has a containerd that is killed, one that will not start,
// and one that hangs, with and without a keeper.
func TestKeepContainerd(t *testing.T) {
	dir, err := os.MkdirTemp("", "keep-") // unix sockets need a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "bin", "containerd")
	if err := os.MkdirAll(filepath.Dir(program), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", filepath.Dir(program))
	a, err := New(Options{Server: "https://127.0.0.1:1", NodeName: "keep", NodeIPs: []netip.Addr{netip.MustParseAddr(nodeIP)},
		DataDir: filepath.Join(dir, "data"), RunDir: filepath.Join(dir, "run"), Containerd: Managed, answerEvery: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	a.events = record.NewFakeRecorder(10)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var keeping sync.WaitGroup
	keeping.Go(func() {
		if err := a.keepContainerd(ctx); err != nil {
			t.Errorf("keepContainerd = %v", err)
		}
	})
	next := func(old int) int {
		t.Helper()
		for deadline := time.Now().Add(90 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			if pid := findContainerd(a.opts); pid != 0 && pid != old && answers(a.opts.containerdSocket()) {
				return pid
			}
			if time.Now().After(deadline) {
				t.Fatal("no containerd")
			}
		}
	}
	first := next(0)
	if pid, err := startContainerd(ctx, a.opts); pid != first || err != nil {
		t.Errorf("started beside the one that runs: %d, %v, want %d", pid, err, first)
	}
	if err := os.Remove(program); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond) // it cannot be started for a while
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	second := next(first)
	if _, err := os.Stat(managedLog(a.opts) + ".1"); err != nil {
		t.Errorf("the log of the first is gone: %v", err)
	}
	if err := syscall.Kill(second, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	third := next(second)
	cancel()
	keeping.Wait()
	if pid := findContainerd(a.opts); pid != third {
		t.Errorf("containerd is %d after the end of its keeper, want %d", pid, third)
	}
	if err := syscall.Kill(third, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if pid, err := startContainerd(t.Context(), a.opts); pid == 0 || pid == third || err != nil {
		t.Errorf("started where one hung: %d, %v; it was %d", pid, err, third)
	}
	for range 2 {
		if err := stopContainerd(t.Context(), a.opts); err != nil {
			t.Error(err)
		}
	}
	if pid := findContainerd(a.opts); pid != 0 {
		t.Errorf("containerd is %d after it was stopped", pid)
	}
}
