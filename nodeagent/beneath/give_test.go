package beneath

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"lockstep/internal/asroot"
)

// TestGive gives a tree to a group: the modes are the kubelet's, a link and what it leads to keep theirs, and directories
// nested a thousand deep are no matter.
func TestGive(t *testing.T) {
	asroot.Test(t)
	top, outside := t.TempDir(), filepath.Join(t.TempDir(), "outside")
	deep := filepath.Join(top, strings.Repeat("d/", 1000))
	for _, err := range []error{
		os.WriteFile(outside, nil, 0o600), os.Symlink(outside, filepath.Join(top, "link")), os.Mkdir(filepath.Join(top, "dir"), 0o700),
		os.WriteFile(filepath.Join(top, "dir", "file"), nil, 0o600), os.WriteFile(filepath.Join(top, "run"), nil, 0o4755),
		os.Chmod(filepath.Join(top, "run"), os.ModeSetuid|0o755), unix.Mkfifo(filepath.Join(top, "pipe"), 0o600), os.MkdirAll(deep, 0o700),
		os.Chmod(top, 0o700),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if given, err := Given(top, 2000); err != nil || given {
		t.Errorf("Given before = %v, %v", given, err)
	}
	for range 2 {
		if err := Give(t.Context(), top, 2000); err != nil {
			t.Fatal(err)
		}
	}
	if given, err := Given(top, 2000); err != nil || !given {
		t.Errorf("Given = %v, %v", given, err)
	}
	for path, want := range map[string]string{
		top: "2770 2000", filepath.Join(top, "dir"): "2770 2000", filepath.Join(top, "dir", "file"): "660 2000",
		filepath.Join(top, "run"): "4775 2000", filepath.Join(top, "pipe"): "660 2000", filepath.Join(top, "link"): "777 2000",
		outside: "600 0", deep: "2770 2000",
	} {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%o %d", st.Mode&^unix.S_IFMT, st.Gid); got != want {
			t.Errorf("%.80s: %s, want %s", path, got, want)
		}
	}
}

// TestGiveUnderAttack has a program swap entries for links to a file outside while they are given.
func TestGiveUnderAttack(t *testing.T) {
	asroot.Test(t)
	top, outside := t.TempDir(), t.TempDir()
	secret := filepath.Join(outside, "secret")
	for _, err := range []error{os.WriteFile(secret, nil, 0o600), os.Mkdir(filepath.Join(top, "a"), 0o700)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	attributes := func() (out string) {
		for _, path := range []string{outside, secret} {
			var st unix.Stat_t
			if err := unix.Lstat(path, &st); err != nil {
				t.Fatal(err)
			}
			out += fmt.Sprintf("%s: %o %d\n", path, st.Mode, st.Gid)
		}
		return out
	}
	before := attributes()
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			default:
			}
			_ = os.Mkdir(filepath.Join(top, "a"), 0o700)
			_ = os.WriteFile(filepath.Join(top, "a", "secret"), nil, 0o600)
			_ = os.WriteFile(filepath.Join(top, "b"), nil, 0o600)
			_ = os.RemoveAll(filepath.Join(top, "a"))
			_ = os.Remove(filepath.Join(top, "b"))
			_ = os.Symlink(outside, filepath.Join(top, "a"))
			_ = os.Symlink(secret, filepath.Join(top, "b"))
			_ = os.Remove(filepath.Join(top, "a"))
			_ = os.Remove(filepath.Join(top, "b"))
		}
	}()
	for range 2000 {
		_ = Give(t.Context(), top, 2000)
	}
	close(done)
	<-ended
	if after := attributes(); after != before {
		t.Errorf("given: %swere %s", after, before)
	}
}
