package logs

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestKeeperEndsWithTheMachine: SIGTERM, which a machine that shuts down sends to everything, ends a keeper once no container
// runs, and what containers said until then is written. Before that, and to a keeper without a cgroup, it means nothing.
func TestKeeperEndsWithTheMachine(t *testing.T) {
	ctx, dir := testContext(t), testDir(t)
	pods := "/lockstep-test-logs/" + filepath.Base(dir) + "-pods"
	container := exec.Command("sleep", "1000")
	if err := container.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = container.Process.Kill()
		_ = container.Wait()
	})
	inCgroup(t, pods+"/pod/container", container.Process.Pid)
	c, err := Ensure(ctx, Options{RunDir: dir, Build: "one", Cgroup: "/lockstep-test-logs/" + filepath.Base(dir), Pods: pods})
	if err != nil {
		t.Fatal(err)
	}
	stream := testStream(dir, "c")
	if err := c.Open(ctx, stream); err != nil {
		t.Fatal(err)
	}
	keeper := keeperPID(ctx, t, c)
	p := newPrinter(t, stream.Stdout)

	if err := syscall.Kill(keeper, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // an absence cannot be waited for
	if now := keeperPID(ctx, t, c); now != keeper {
		t.Fatalf("while a container runs SIGTERM ended keeper %d; %d took its place", keeper, now)
	}
	if err := p.write(ctx, []byte("the last words\n")); err != nil {
		t.Fatal(err)
	}
	_ = container.Process.Kill()
	_ = container.Wait()
	for alive(keeper) {
		if ctx.Err() != nil {
			t.Fatal("the keeper stays, though no container is left")
		}
		time.Sleep(10 * time.Millisecond)
	}
	awaitLog(t, stream.Path, "the last words\n")
	if again := keeperPID(ctx, t, c); again == keeper {
		t.Error("an agent that is there gets no other keeper")
	}
	if err := p.write(ctx, []byte("and more\n")); err != nil {
		t.Fatal(err)
	}
	awaitLog(t, stream.Path, "the last words\nand more\n")
}

func keeperPID(ctx context.Context, t *testing.T, c *Client) int {
	t.Helper()
	stats, err := c.Stats(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return stats.PID
}

// inCgroup puts a process into a cgroup, which it makes, until the test ends.
func inCgroup(t *testing.T, path string, pid int) {
	t.Helper()
	root := "/sys/fs/cgroup"
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err != nil {
		root = filepath.Join(root, "pids")
	}
	dir := filepath.Join(root, path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for ; dir != root; dir = filepath.Dir(dir) {
			_ = syscall.Rmdir(dir)
		}
	})
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(fmt.Sprint(pid)), 0); err != nil {
		t.Fatal(err)
	}
}
