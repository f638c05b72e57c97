package logs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lockstep/internal/apart"
	"lockstep/internal/asroot"
	"lockstep/nodeagent/companion"
	"lockstep/nodeagent/logs/keeper"
	_ "lockstep/nodeagent/logs/keeper/early" // this binary is the keepers' program, too
)

// TestMain runs the tests in a mount namespace of their own, and, in child processes, the parts that tests kill.
func TestMain(m *testing.M) {
	if os.Getenv("LOGS_TEST") == "agent" {
		agent()
	}
	asroot.Main("the tests of nodeagent/logs")
	apart.Main(syscall.CLONE_NEWNS)
	goleak.VerifyTestMain(m)
}

// agent is a process that starts a keeper with one stream and is killed.
func agent() {
	ctx := context.Background()
	dir := os.Getenv("LOGS_DIR")
	c, err := Ensure(ctx, Options{RunDir: dir, Build: "one", Cgroup: "/lockstep-test-logs/" + filepath.Base(dir)})
	if err == nil {
		err = c.Open(ctx, testStream(dir, "c"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("open")
	select {}
}

func testStream(dir, id string) Stream {
	out, err := FIFOs(dir, id)
	return Stream{ID: id, Path: filepath.Join(dir, "pods", id, "0.log"), Stdout: out, Stderr: err, MaxSize: 1 << 20, MaxFiles: 1000}
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// testDir is a run directory whose keeper is ended with the test.
func testDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() {
		program := companion.Program{Name: keeper.Command, RunDir: dir}
		if conn, err := program.Dial(context.Background()); err == nil {
			conn.Close()
			stats, err := (&Client{program: program}).Stats(context.Background())
			if err == nil {
				kill(t, stats.PID)
			}
		}
		for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
			paths, _ := filepath.Glob(filepath.Join(root, "lockstep-test-logs", filepath.Base(dir)))
			for _, path := range paths {
				_ = syscall.Rmdir(path)
				_ = syscall.Rmdir(filepath.Dir(path))
			}
		}
	})
	return dir
}

// kill kills a process and waits until it is gone.
func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Errorf("cannot kill %d: %v", pid, err)
	}
	for deadline := time.Now().Add(10 * time.Second); alive(pid); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d does not end", pid)
		}
	}
}

// alive says whether a process runs; one that is dead and not reaped does not.
func alive(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(after, "Z") && !strings.HasPrefix(after, "X")
}
