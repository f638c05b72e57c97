package logs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"lockstep/internal/eventually"
)

// startContainerd starts one of the test's own.
func startContainerd(t *testing.T) *client.Client {
	t.Helper()
	dir := t.TempDir()
	address := filepath.Join(dir, "sock")
	config := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", "+
		"\"io.containerd.internal.v1.opt\"]\n[grpc]\naddress = %q\n",
		dir+"/root", dir+"/state", address)
	if err := os.WriteFile(dir+"/config.toml", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command("containerd", "--config", dir+"/config.toml")
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // the signal comes when the thread ends, not the process
	t.Cleanup(runtime.UnlockOSThread)
	cmd.WaitDelay = time.Second // shims keep its standard error
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	c, err := client.New(address, client.WithTimeout(20*time.Second))
	if err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	t.Cleanup(func() { c.Close() })
	eventually.Nil(t, 20*time.Second, "containerd answers", func() error {
		_, err := c.Version(t.Context())
		return err
	})
	return c
}

// TestThroughTheShim prints from a real container, whose keeper is killed in the middle: the container goes on, its
// process is the same, and what it prints at the very end is there.
func TestThroughTheShim(t *testing.T) {
	dir := testDir(t)
	ctx := namespaces.WithNamespace(testContext(t), "logs-test")
	containerd := startContainerd(t)
	keeper, err := Ensure(ctx, Options{RunDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { _ = keeper.Run(running) })
	defer watch.Wait()
	defer stop()

	rootfs := t.TempDir()
	var mounts []specs.Mount
	for _, path := range []string{"/bin", "/lib", "/lib64", "/usr"} {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		if err := os.MkdirAll(rootfs+path, 0o755); err != nil {
			t.Fatal(err)
		}
		mounts = append(mounts, specs.Mount{Destination: path, Type: "bind", Source: path, Options: []string{"rbind", "ro"}})
	}
	script := "i=0; while [ ! -e /stop ]; do echo out $i; echo err $i >&2; i=$((i+1)); sleep 0.005; done; " +
		"echo the end $i; printf 'no newline'"
	container, err := containerd.NewContainer(ctx, "c", client.WithNewSpec(
		oci.WithRootFSPath(rootfs), oci.WithProcessArgs("/bin/sh", "-c", script), oci.WithMounts(mounts),
		oci.WithCgroup("/lockstep-test-logs-shim"), oci.WithEnv([]string{"PATH=/usr/bin:/bin"})))
	if err != nil {
		t.Fatal(err)
	}
	s := testStream(dir, "c")
	if err := keeper.Open(ctx, s); err != nil {
		t.Fatal(err)
	}
	task, err := container.NewTask(ctx, taskIO(s))
	if err != nil {
		t.Fatal(err)
	}
	exited, err := task.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := task.Start(ctx); err != nil {
		t.Fatal(err)
	}
	awaitLine := func(prefix string, after int) {
		t.Helper()
		deadline := time.Now().Add(20 * time.Second)
		for strings.Count("\n"+string(readAll(t, s.Path)), "\n"+prefix) <= after {
			time.Sleep(5 * time.Millisecond)
			if time.Now().After(deadline) {
				t.Fatalf("the log is %.300q", readAll(t, s.Path))
			}
		}
	}
	awaitLine("out ", 5)
	stats, err := keeper.Stats(ctx)
	if err != nil {
		t.Fatal(err)
	}
	kill(t, stats.PID)
	before := strings.Count(string(readAll(t, s.Path)), "out ")
	awaitLine("out ", before+20)
	if err := os.WriteFile(rootfs+"/stop", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	select {
	case status := <-exited:
		if status.ExitCode() != 0 {
			t.Errorf("the container ended with %d, %v", status.ExitCode(), status.Error())
		}
	case <-ctx.Done():
		t.Fatal("the container does not end")
	}
	if _, err := task.Delete(ctx); err != nil {
		t.Fatal(err)
	}
	if err := keeper.Close(ctx, "c"); err != nil {
		t.Fatal(err)
	}
	if err := container.Delete(ctx); err != nil {
		t.Fatal(err)
	}
	log := string(readAll(t, s.Path))
	if !strings.HasSuffix(log, "no newline") || strings.Count(log, "the end ") != 1 {
		t.Errorf("the log ends with %q", log[max(0, len(log)-100):])
	}
	next := map[string]int{}
	for line := range strings.Lines(log) {
		var name string
		var n int
		if _, err := fmt.Sscanf(line, "%s %d", &name, &n); err != nil || name == "the" {
			continue
		}
		if n != next[name] {
			t.Errorf("after %s %d came %q", name, next[name]-1, line)
		}
		next[name] = n + 1
	}
}

// taskIO gives a container's task the stream's FIFOs, which must be open (Client.Open): containerd's shim opens them
// itself and copies into them, so nothing passes through the agent.
func taskIO(s Stream) cio.Creator {
	return func(string) (cio.IO, error) {
		return fifoIO(cio.Config{Stdout: s.Stdout, Stderr: s.Stderr}), nil
	}
}

// fifoIO is a task's output that somebody else reads.
type fifoIO cio.Config

func (f fifoIO) Config() cio.Config { return cio.Config(f) }
func (f fifoIO) Cancel()            {}
func (f fifoIO) Wait()              {}
func (f fifoIO) Close() error       { return nil }
