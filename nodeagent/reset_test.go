package nodeagent

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"lockstep/nodeagent/logs/keeper"
)

// TestKeepersOfOthers has two log keepers of one path, which is another directory for the second.
func TestKeepersOfOthers(t *testing.T) {
	dir := t.TempDir()
	start := func(program string, args ...string) int {
		t.Helper()
		cmd := exec.Command(program, args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		proc := filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid))
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			line, _ := os.ReadFile(filepath.Join(proc, "cmdline"))
			_, err := os.Stat(filepath.Join(proc, "root", keeper.Socket(dir)))
			if err == nil && strings.Contains(string(line), "\x00"+keeper.Command+"\x00") {
				return cmd.Process.Pid
			}
			if time.Now().After(deadline) {
				t.Fatal("the keeper does not start")
			}
		}
	}
	other := start("unshare", "-m", "sh", "-c", `mount -t tmpfs none "$1" && exec "$0" log-keeper "$1" test`, os.Args[0], dir)
	own := start(os.Args[0], keeper.Command, dir, "test")
	pids := companions(dir, keeper.Command)
	if !slices.Equal(pids, []int{own}) {
		t.Errorf("keepers = %v, want [%d] without the other's %d", pids, own, other)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if pids = companions(dir, keeper.Command); !slices.Equal(pids, []int{own}) {
		t.Errorf("with the directory removed: keepers = %v, want [%d]", pids, own)
	}
}
