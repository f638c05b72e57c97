package machine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"lockstep/internal/asroot"
	"lockstep/nodeagent/cgroup"
	"lockstep/nodeagent/process"
	"lockstep/nodeagent/runtime"
)

// TestCgroupOfContainer: a process below a container's cgroup is the container's.
func TestCgroupOfContainer(t *testing.T) {
	for below, want := range map[string]string{".": "", "pod1": "", "pod1/c": "c", "pod1/c/own/deeper": "c",
		"burstable": "", "burstable/pod1": "", "burstable/pod1/c": "c", "besteffort/pod1/c/own": "c"} {
		if got := containerOfCgroup(below); got != want {
			t.Errorf("%s: %q, want %q", below, got, want)
		}
	}
}

// TestEndForgotten has two shims with a container each, one of which containerd
// does not know.
func TestEndForgotten(t *testing.T) {
	asroot.Test(t)
	remains := Remains{Node: fmt.Sprintf("forgotten-%d", os.Getpid()), Socket: filepath.Join(t.TempDir(), "c.sock")}
	path := Cgroup(remains.Node)
	t.Cleanup(func() {
		if err := cgroup.Remove(path); err != nil {
			t.Error(err)
		}
		for _, root := range cgroup.Hierarchies() {
			_ = syscall.Rmdir(filepath.Join(root, filepath.Dir(path))) // others may be in it
		}
	})
	start := func(id string) (shim, child int) {
		t.Helper()
		cmd := exec.Command("sh", "-c", "sleep 1000 & echo $!; wait",
			"-namespace", runtime.Namespace, "-id", id, "-address", remains.Socket)
		cmd.Args[0] = "/usr/bin/containerd-shim-runc-v2"
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fscan(out, &child); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = syscall.Kill(child, syscall.SIGKILL)
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		joined := false
		for _, root := range cgroup.Hierarchies() {
			dir := filepath.Join(root, path, "pod1", id, "own")
			if err := os.MkdirAll(dir, 0o755); err != nil {
				continue // such as a hierarchy that is read-only
			}
			joined = os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(child)), 0) == nil || joined
		}
		if !joined {
			t.Fatal("the child is in no cgroup")
		}
		return cmd.Process.Pid, child
	}
	lostShim, lost := start("lost")
	shim, child := start("known")
	for i, want := range [][]string{{"lost"}, nil} {
		ids, err := remains.End(t.Context(), func(id string) bool { return id != "lost" })
		if err != nil || !slices.Equal(ids, want) {
			t.Errorf("look %d: %v, %v, want %v", i, ids, err, want)
		}
	}
	if process.Alive(lost) || process.Wait(t.Context(), lostShim) != nil {
		t.Error("the lost container is alive")
	}
	if !process.Alive(shim) || !process.Alive(child) {
		t.Error("the known container is not")
	}
	// As a reset does.
	if ids, err := remains.End(t.Context(), func(string) bool { return false }); err != nil || !slices.Equal(ids, []string{"known"}) {
		t.Errorf("%v, %v", ids, err)
	}
	if process.Alive(child) || process.Wait(t.Context(), shim) != nil {
		t.Error("something is left")
	}
}
