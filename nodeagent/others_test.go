package nodeagent

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"lockstep/nodeagent/cgroup"
	"lockstep/nodeagent/logs/keeper"
)

// TestResetOfOthersDirectories has a node's log keeper run with directories that the reset is not given.
func TestResetOfOthersDirectories(t *testing.T) {
	run, data, name := t.TempDir(), t.TempDir(), "others-test"
	group := keeperCgroup(name)
	if err := cgroup.Make(group, &specs.LinuxResources{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cgroup.Remove(group) })
	cmd := exec.Command(os.Args[0], keeper.Command, run, "test")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for _, root := range cgroup.Hierarchies() {
		procs := filepath.Join(root, group, "cgroup.procs")
		if err := os.WriteFile(procs, []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil && !os.IsNotExist(err) {
			t.Log(err) // a hierarchy without this cgroup
		}
	}
	if err := os.WriteFile(filepath.Join(run, dataDirFile), []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); len(companions(run, keeper.Command)) == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the keeper does not start")
		}
	}
	err := Reset(t.Context(), Options{
		NodeName:   name,
		DataDir:    filepath.Join(t.TempDir(), "a"),
		RunDir:     filepath.Join(t.TempDir(), "b"),
		Containerd: Managed,
	})
	if err == nil || !strings.Contains(err.Error(), "nothing is touched: its are --data-dir '"+data+"' --run-dir '"+run+"'") {
		t.Errorf("reset: %v", err)
	}
	if err := (Options{NodeName: name, DataDir: data, RunDir: run}).refuseOthers(); err != nil {
		t.Errorf("its own: %v", err)
	}
	if pids := companions(run, keeper.Command); len(pids) != 1 {
		t.Errorf("keepers = %v", pids)
	}
}
