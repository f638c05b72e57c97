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
	for {
		if conn, err := listener.Accept(); err == nil {
			conn.Close()
		}
	}
}

// TestKeepContainerd has a containerd that is killed, and one that will not start.
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
		DataDir: filepath.Join(dir, "data"), RunDir: filepath.Join(dir, "run"), Containerd: Managed})
	if err != nil {
		t.Fatal(err)
	}
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
		for deadline := time.Now().Add(40 * time.Second); ; time.Sleep(5 * time.Millisecond) {
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
	cancel()
	keeping.Wait()
	if pid := findContainerd(a.opts); pid != second {
		t.Errorf("containerd is %d after the end of its keeper, want %d", pid, second)
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
