package cgroup

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"lockstep/internal/asroot"
	"lockstep/nodeagent/spec"
)

// TestControls has trees as the kernel shows them in either version.
func TestControls(t *testing.T) {
	v1, v2 := t.TempDir(), t.TempDir()
	for file, text := range map[string]string{
		filepath.Join(v1, "hugetlb", "cgroup.procs"): "1\n", filepath.Join(v2, "cgroup.controllers"): "cpu hugetlb memory\n",
		filepath.Join(v1, "unified", "cgroup.controllers"): "rdma\n",
	} {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		mount, controller string
		unified, want     bool
	}{{v1, "hugetlb", false, true}, {v1, "memory", false, false}, {v2, "hugetlb", true, true}, {v2, "huge", true, false},
		{filepath.Join(v1, "none"), "hugetlb", false, false}, {filepath.Join(v1, "none"), "hugetlb", true, false}} {
		if got := controls(c.mount, c.unified, c.controller); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// TestSwapLimits has trees as the kernel shows them, with and without.
func TestSwapLimits(t *testing.T) {
	for file, want := range map[string][2]bool{ // by the first version, and by the second
		"memory/memory.memsw.limit_in_bytes": {true, false}, "system.slice/memory.swap.max": {false, true}, "memory.swap.max": {},
	} {
		mount := t.TempDir()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(mount, file)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(mount, file), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := [2]bool{swapLimits(mount, false), swapLimits(mount, true)}; got != want {
			t.Errorf("%s: %v", file, got)
		}
	}
}

// TestUnify: each value is in the file of its name; what the kernel has no file for is an error.
func TestUnify(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"memory.min", "memory.high"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := unify(dir, map[string]string{"memory.min": "4096", "memory.high": "max"}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"memory.min": "4096", "memory.high": "max"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if err := unify(dir, map[string]string{"memory.swap.max": "0"}); !os.IsNotExist(err) {
		t.Errorf("a file that is not there: %v", err)
	}
}

// TestPodPids has a process in a pod's cgroup fork more than the pod may.
func TestPodPids(t *testing.T) {
	asroot.Test(t)
	const limit = 16
	path := fmt.Sprintf("/lockstep-test-%d", os.Getpid())
	if err := Make(path, spec.PodLimits(&corev1.Pod{}, spec.Node{PodPids: limit})); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := Remove(path); err != nil {
			t.Error(err)
		}
	}()
	dir := filepath.Join(Mount, "pids", path)
	if V2() {
		dir = filepath.Join(Mount, path)
	}
	cmd := exec.Command("sh", "-c", "read go; for i in $(seq 60); do sleep 1000 & done; wait")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	}()
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write([]byte("go\n")); err != nil {
		t.Fatal(err)
	}
	number := func(file string) int {
		data, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(strings.TrimPrefix(strings.TrimSpace(string(data)), "max "))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for deadline := time.Now().Add(30 * time.Second); number("pids.events") == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d processes of %d, none refused", number("pids.current"), limit)
		}
	}
	if n := number("pids.current"); n > limit {
		t.Errorf("%d processes, the limit is %d", n, limit)
	}
}
