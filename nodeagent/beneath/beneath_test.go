package beneath

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/internal/asroot"
	"lockstep/internal/short"
)

// outside is a directory that nothing below may lead to.
func outside(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("root's"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func open(t *testing.T, path string) *Dir {
	t.Helper()
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

// TestLinksAreNotFollowed puts links and FIFOs where each verb works.
func TestLinksAreNotFollowed(t *testing.T) {
	dir, out := t.TempDir(), outside(t)
	for name, target := range map[string]string{
		"dir":  out,
		"file": filepath.Join(out, "secret"),
		"new":  filepath.Join(out, "new"),
		"self": "self",
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := open(t, dir)
	group := int64(2000)
	for name, verb := range map[string]func() error{
		"open": func() error { _, err := d.Open("dir"); return err }, "open a fifo": func() error { _, err := d.Open("fifo"); return err },
		"open up": func() error { _, err := d.Open(".."); return err }, "open the root": func() error { _, err := d.Open("/"); return err },
		"make":        func() error { _, err := d.Make("dir/x", Attr{Mode: 0o777}); return err },
		"make there":  func() error { _, err := d.Make("dir", Attr{Mode: 0o777, Group: &group}); return err },
		"create":      func() error { return d.Create("new", []byte("x"), Attr{Mode: 0o666}) },
		"create in":   func() error { return d.Create("dir/y", []byte("x"), Attr{Mode: 0o666}) },
		"replace":     func() error { return d.Create("file", []byte("x"), Attr{Mode: 0o666}) },
		"read":        func() error { _, err := d.File("file"); return err },
		"read a fifo": func() error { _, err := d.File("fifo"); return err },
		"read in":     func() error { _, err := d.File("dir/secret"); return err },
	} {
		if verb() == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := d.File("fifo"); !errors.Is(err, ErrNotRegular) {
		t.Errorf("reading a fifo: %v", err)
	}
	for _, name := range []string{"dir", "file", "fifo", "self", "none"} {
		if err := d.RemoveAll(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
	entries, err := os.ReadDir(out)
	if err != nil || len(entries) != 1 {
		t.Errorf("outside: %v, %v", entries, err)
	}
	if info, err := os.Stat(filepath.Join(out, "secret")); err != nil || info.Mode() != 0o600 {
		t.Errorf("outside: %v, %v", info, err)
	}
}

func TestAttributes(t *testing.T) {
	asroot.Test(t)
	defer syscall.Umask(syscall.Umask(0o077))
	dir, group := t.TempDir(), int64(2000)
	d := open(t, dir)
	made, err := d.Make("a/b", Attr{Mode: 0o755 | unix.S_ISGID, Group: &group})
	if err != nil {
		t.Fatal(err)
	}
	defer made.Close()
	if err := made.Create("f", []byte("text"), Attr{Mode: 0o640, Group: &group}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fs.FileMode{
		"a":     fs.ModeDir | fs.ModeSetgid | 0o755,
		"a/b":   fs.ModeDir | fs.ModeSetgid | 0o755,
		"a/b/f": 0o640,
	} {
		info, err := os.Stat(filepath.Join(dir, path))
		if err != nil || info.Mode() != want || info.Sys().(*syscall.Stat_t).Gid != 2000 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	again, err := d.Make("a", Attr{Mode: 0o700})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if attr, err := again.Attr(); err != nil || attr.Mode != 0o755|unix.S_ISGID || *attr.Group != 2000 {
		t.Errorf("what was there was changed: %v, %v", attr, err)
	}
}

// deep nests so many directories, faster than by paths, with a file in the last.
func deep(t *testing.T, dir string, levels int) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	for range levels {
		if err == nil {
			err = unix.Mkdirat(fd, "d", 0o700)
		}
		var next int
		if err == nil {
			next, err = unix.Openat(fd, "d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
			unix.Close(fd)
			fd = next
		}
	}
	if err == nil {
		var f int
		if f, err = unix.Openat(fd, "last", unix.O_WRONLY|unix.O_CREAT, 0o600); err == nil {
			_, err = unix.Write(f, make([]byte, 1<<20))
			unix.Close(f)
		}
		unix.Close(fd)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestDeep measures and removes what is nested deeper than there are descriptors, and than a path is long.
func TestDeep(t *testing.T) {
	short.Leave(t, "5,000 levels")
	const levels = 5_000
	dir := t.TempDir()
	deep(t, dir, levels)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	few := unix.Rlimit{Cur: 128, Max: limit.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit) }()
	size, err := Usage(t.Context(), filepath.Join(dir, "d"))
	if err != nil || size.Inodes != levels+1 || size.Bytes < 1<<20 {
		t.Errorf("measured %+v, %v", size, err)
	}
	for range 2 {
		if err := RemoveAll(t.Context(), filepath.Join(dir, "d")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "d")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

func TestUsage(t *testing.T) {
	dir := t.TempDir()
	for i := range 3 {
		sub := filepath.Join(dir, "v", fmt.Sprint(i), "sub")
		if err := os.MkdirAll(sub, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sub, "f"), make([]byte, 64<<10), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(dir, "v/0/sub/f"), filepath.Join(dir, "v/1/again")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/", filepath.Join(dir, "v/all")); err != nil {
		t.Fatal(err)
	}
	size, err := Usage(t.Context(), filepath.Join(dir, "v"))
	if err != nil || size.Inodes != 11 || size.Bytes < 192<<10 || size.Bytes > 256<<10 {
		t.Errorf("measured %+v, %v", size, err)
	}
	for _, path := range []string{filepath.Join(dir, "none"), filepath.Join(dir, "none", "none")} {
		if size, err := Usage(t.Context(), path); err != nil || size != (Size{}) {
			t.Errorf("%s: %+v, %v", path, size, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Usage(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestUsageUnderAttack measures 1,000 times while directories are moved and swapped for links and FIFOs: it ends, and
// never counts the host.
func TestUsageUnderAttack(t *testing.T) {
	dir, out := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(out, "big"), make([]byte, 32<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var attacker sync.WaitGroup
	defer attacker.Wait()
	defer close(stop)
	attacker.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			_ = root.MkdirAll("a/b/c/d", 0o700)
			_ = root.Rename("a/b/c", "moved")
			switch i % 3 {
			case 0:
				_ = root.Symlink(out, "a/b/c")
			case 1:
				_ = root.Link("fifo", "a/b/c")
			}
			_ = root.RemoveAll("moved")
			_ = root.RemoveAll("a/b/c")
		}
	})
	for range 1000 {
		began := time.Now()
		size, err := Usage(t.Context(), dir)
		if size.Bytes >= 32<<20 {
			t.Fatalf("measured the host: %+v", size)
		}
		if err != nil && !errors.Is(err, ErrChanged) && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if time.Since(began) > 30*time.Second {
			t.Fatal("it took", time.Since(began))
		}
	}
}

// TestUsageOfWhatMoves measures while directories are moved to others and back, and renamed, near the top and far below it:
// what stays where it is is measured whole each time, and so are directories that change their name only.
func TestUsageOfWhatMoves(t *testing.T) {
	short.Leave(t, "seconds of moving")
	const size = 64 << 10
	for _, depth := range []int{0, 2, maxOpen + 4} {
		t.Run(fmt.Sprint(depth), func(t *testing.T) {
			dir := t.TempDir()
			base := filepath.Join(dir, "v", strings.Repeat("d/", depth))
			still := 0
			for i := range 8 {
				for _, sub := range []string{"near/p", "near/q", "far"} {
					sub = filepath.Join(base, fmt.Sprint(i), sub)
					for _, path := range []string{filepath.Join(sub, "x", "y"), filepath.Join(dir, "v", fmt.Sprint("top", i))} {
						if err := os.MkdirAll(path, 0o700); err != nil {
							t.Fatal(err)
						}
					}
					for _, file := range []string{
						filepath.Join(sub, "f"),
						filepath.Join(dir, "v", fmt.Sprint("top", i), strings.ReplaceAll(sub, "/", "_")),
					} {
						if err := os.WriteFile(file, make([]byte, size), 0o600); err != nil {
							t.Fatal(err)
						}
						still += size
					}
				}
			}
			stop := make(chan struct{})
			var movers sync.WaitGroup
			defer movers.Wait()
			defer close(stop)
			for i := range 8 {
				at := filepath.Join(base, fmt.Sprint(i))
				movers.Go(func() {
					for {
						select {
						case <-stop:
							return
						case <-time.After(50 * time.Microsecond):
						}
						for _, move := range [][2]string{
							{"near/p/x", "near/q/moved"}, {"near/q/moved", "near/p/x"}, {"far/x", "far/renamed"},
							{"far/renamed", "far/x"},
						} {
							if err := os.Rename(filepath.Join(at, move[0]), filepath.Join(at, move[1])); err != nil {
								t.Error(err)
								return
							}
						}
					}
				})
			}
			for range 200 {
				got, err := Usage(t.Context(), filepath.Join(dir, "v"))
				if err != nil && !errors.Is(err, ErrChanged) || depth < maxOpen-4 && got.Bytes < uint64(still) {
					t.Fatalf("measured %+v, %v; %d bytes stay where they are", got, err, still)
				}
				if got.Bytes < uint64(still)*3/4 {
					t.Fatalf("measured %+v, %v of %d bytes", got, err, still)
				}
			}
		})
	}
}

// TestRemoveAllLeavesMounts removes around a mount point, as after an unmount that failed: what is mounted stays.
func TestRemoveAllLeavesMounts(t *testing.T) {
	asroot.Test(t)
	dir, out := t.TempDir(), outside(t)
	at := filepath.Join(dir, "v", "mnt")
	if err := os.MkdirAll(at, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(out, at, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(at, unix.MNT_DETACH) }()
	if err := RemoveAll(t.Context(), filepath.Join(dir, "v")); err == nil || !strings.Contains(err.Error(), "mnt") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(out, "secret")); err != nil {
		t.Error(err)
	}
}
