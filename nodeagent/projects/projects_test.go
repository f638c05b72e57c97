package projects

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"lockstep/internal/asroot"
)

func TestMain(m *testing.M) {
	asroot.Main("the tests of nodeagent/projects")
	os.Exit(m.Run())
}

// disk makes a file system in a file and mounts it; false: the kernel cannot.
func disk(t *testing.T, mount string, mkfs ...string) (string, bool) {
	t.Helper()
	file, at := filepath.Join(t.TempDir(), "disk"), t.TempDir()
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, 400<<20)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(mkfs[0], append(mkfs[1:], file)...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := exec.Command("mount", "-o", mount, file, at).CombinedOutput()
	if err != nil {
		t.Logf("this kernel has no such file system: %s", strings.TrimSpace(string(out)))
		return "", false
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	})
	return at, true
}

func open(t *testing.T, path string) int {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return int(f.Fd())
}

// TestNone: file systems without project quotas say so.
func TestNone(t *testing.T) {
	plain, ok := disk(t, "loop", "mkfs.ext4", "-q")
	if !ok {
		t.Fatal("this kernel has no ext4")
	}
	memory := t.TempDir()
	if err := unix.Mount("tmpfs", memory, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(memory, 0) })
	for _, path := range []string{plain, memory, "/proc"} {
		if has, err := (Kernel{}).Enforced(open(t, path)); has || err != nil {
			t.Errorf("%s: %v, %v", path, has, err)
		}
	}
}

// TestQuotas has file systems hold a directory to its limit, as a program without rights sees it. Where the kernel has no quotas for one it
// cannot be mounted so, or says that it has none, and TestNone has what holds then.
func TestQuotas(t *testing.T) {
	for name, mkfs := range map[string][]string{
		"ext4": {"mkfs.ext4", "-q", "-O", "project,quota", "-E", "quotatype=prjquota"}, "xfs": {"mkfs.xfs", "-q"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath(mkfs[0]); err != nil {
				t.Logf("this machine makes no %s", name)
				return
			}
			if at, ok := disk(t, "loop,prjquota", mkfs...); ok {
				holds(t, at)
			}
		})
	}
}

func holds(t *testing.T, at string) {
	var k Kernel
	top := open(t, at)
	if has, err := k.Enforced(top); !has || err != nil {
		t.Fatalf("enforced: %v, %v", has, err)
	}
	const project = 1<<30 + 7
	if usage, err := k.Usage(top, project); err != nil || usage != (Usage{}) {
		t.Errorf("of one that nobody has heard of: %+v, %v", usage, err)
	}
	dir := filepath.Join(at, "volume")
	if err := errors.Join(os.Mkdir(dir, 0o777), os.Chmod(dir, 0o777)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := errors.Join(k.Limit(top, project, 1<<20+1), k.Give(open(t, dir), project)); err != nil {
			t.Fatal(err)
		}
	}
	// As nobody: root may go beyond.
	fill := exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "dd", "if=/dev/zero", "of=file", "bs=64K",
		"count=64")
	fill.Dir = dir // nobody finds the way there
	out, err := fill.CombinedOutput()
	if text := string(out); err == nil || !strings.Contains(text, "quota exceeded") && !strings.Contains(text, "No space left") {
		t.Errorf("it is not held: %v: %s", err, out)
	}
	if got, err := k.Of(open(t, dir+"/file")); err != nil || got != project {
		t.Errorf("a file has project %d, %v", got, err)
	}
	usage, err := k.Usage(top, project)
	if err != nil || usage.Limit <= 1<<20 || usage.Limit > 1<<20+LargestBlock ||
		usage.Bytes < 900<<10 || usage.Bytes > usage.Limit || usage.Inodes != 2 {
		t.Errorf("%+v, %v", usage, err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil || fs.Blocks*uint64(fs.Bsize) > 2<<20 {
		t.Errorf("the directory is as large as %d bytes, %v", fs.Blocks*uint64(fs.Bsize), err)
	}
	if err := k.Limit(top, project, 0); err != nil {
		t.Error(err)
	}
	if usage, err := k.Usage(top, project); err != nil || usage.Limit != 0 {
		t.Errorf("without a limit: %+v, %v", usage, err)
	}
}

func TestUnits(t *testing.T) {
	for bytes, want := range map[uint64]uint64{0: 0, 1: 1, 1024: 1, 1025: 2, ^uint64(0): 1 << 54} {
		if got := units(bytes); got != want {
			t.Errorf("%d bytes are %d KiB, want %d", bytes, got, want)
		}
	}
}
