package nodeagent

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/nodeagent/logs/keeper"
)

// TestRemoveAround: what is mounted below a directory outlives it, wherever links and odd names lead.
func TestRemoveAround(t *testing.T) {
	root := t.TempDir()
	theirs := filepath.Join(root, "theirs")
	for _, names := range [][2]string{{"data", "data"}, {"a disk", "a disk"}, {"disk", "link"}} {
		at := filepath.Join(root, names[0], "volumes", "uid", "volumes", "v")
		file, inner := filepath.Join(theirs, "file"), filepath.Join(filepath.Dir(at), "own", "file")
		if err := errors.Join(os.MkdirAll(at, 0o700), os.MkdirAll(filepath.Dir(inner), 0o700), os.MkdirAll(theirs, 0o700),
			os.WriteFile(file, nil, 0o600), os.WriteFile(inner, nil, 0o600), unix.Mount(theirs, at, "", unix.MS_BIND, "")); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
		dir := filepath.Join(root, names[1], "volumes")
		if names[1] != names[0] {
			if err := os.Symlink(names[0], filepath.Dir(dir)); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if err := removeAround(t.Context(), dir); err != nil {
				t.Error(err)
			}
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", dir, err)
		}
		if _, err := os.Stat(file); err != nil {
			t.Errorf("what was mounted below %s: %v", dir, err)
		}
	}
}

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
