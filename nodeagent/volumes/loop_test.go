package volumes

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/nodeagent/pods"
)

// loopsOf are the loop devices of a file.
func loopsOf(t *testing.T, path string) (out []loop) {
	t.Helper()
	var st unix.Stat_t
	all, err := attachedLoops()
	if err := errors.Join(err, unix.Stat(path, &st)); err != nil {
		t.Fatal(err)
	}
	for _, o := range all {
		if (o.of == loopFile{uint64(st.Dev), st.Ino}) {
			out = append(out, o)
		}
	}
	return out
}

// backing makes a file of so many bytes that begins with a text, and has its devices go with the test.
func backing(t *testing.T, text string, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Truncate(path, size)); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		all, err := attachedLoops()
		for _, o := range all {
			if (o.of == loopFile{uint64(st.Dev), st.Ino}) {
				err = errors.Join(err, o.detach())
			}
		}
		if err != nil {
			t.Error(err)
		}
	})
	return path
}

func begins(t *testing.T, device, want string) {
	t.Helper()
	f, err := os.Open(device)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make([]byte, len(want))
	if _, err := f.ReadAt(got, 0); err != nil || string(got) != want {
		t.Errorf("%s begins with %q, %v, want %q", device, got, err, want)
	}
}

func block(path string) pods.Persistent {
	p := local(path)
	p.Block = true
	return p
}

// maps sets a pod up, and returns the path of its device.
func maps(t *testing.T, m *Manager, uid types.UID, p pods.Persistent) string {
	t.Helper()
	pod, from := claiming(uid, p)
	got, err := m.Setup(t.Context(), pod, from)
	if err != nil {
		t.Fatal(err)
	}
	d := got["data"].Device
	if d == nil || d.Major != 7 || got["data"].ReadOnly != p.ReadOnly {
		t.Fatalf("%s got %+v", uid, got["data"])
	}
	return fmt.Sprintf("/dev/loop%d", d.Minor)
}

// TestLoop has pods share the device of a file, also when the agent dies and starts again, and wants it gone with the last of them.
func TestLoop(t *testing.T) {
	dir := t.TempDir()
	manager := func() *Manager {
		m, err := New(Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	m, path := manager(), backing(t, "first", 1<<20)
	readOnly := block(path)
	readOnly.ReadOnly = true
	first := maps(t, m, "uid-1", block(path))
	begins(t, first, "first")
	again, other, anew := maps(t, m, "uid-1", block(path)), maps(t, m, "uid-2", readOnly), maps(t, manager(), "uid-1", block(path))
	for i, got := range []string{again, other, anew} {
		if got != first {
			t.Errorf("%d: %s, want %s", i, got, first)
		}
	}
	if got := loopsOf(t, path); len(got) != 1 {
		t.Errorf("the file has %d devices", len(got))
	}
	if used, err := m.Mounted(path); err != nil || !used {
		t.Errorf("it is not in use: %v", err)
	}
	gone := func(uid types.UID, want int) {
		t.Helper()
		if err := m.Teardown(t.Context(), uid); err != nil {
			t.Error(err)
		}
		if got := loopsOf(t, path); len(got) != want {
			t.Errorf("without %s the file has %d devices, want %d", uid, len(got), want)
		}
	}
	gone("uid-1", 1)
	gone("uid-2", 0)
	gone("uid-2", 0)
	if used, err := m.Mounted(path); err != nil || used {
		t.Errorf("it is in use: %v", err)
	}

	// The agent dies when the pod's directory is gone, and its device is not.
	maps(t, m, "uid-3", block(path))
	if err := os.RemoveAll(m.podDir("uid-3")); err != nil {
		t.Fatal(err)
	}
	if err := manager().Sweep(t.Context(), func(types.UID) bool { return true }); err != nil {
		t.Error(err)
	}
	if got := loopsOf(t, path); len(got) > 0 {
		t.Errorf("a device is left: %+v", got)
	}

	// The machine starts anew: what the pods used is written down, and no device is there.
	maps(t, m, "uid-4", block(path))
	for _, o := range loopsOf(t, path) {
		if err := o.detach(); err != nil {
			t.Fatal(err)
		}
	}
	begins(t, maps(t, manager(), "uid-4", block(path)), "first")
	gone("uid-4", 0)
}

// TestLoopIsKept: a pod keeps the device that it has when another file is put in the place of its own; the next one gets that.
func TestLoopIsKept(t *testing.T) {
	m, path := newManager(t), backing(t, "first", 1<<20)
	device := maps(t, m, "uid-1", block(path))
	other := backing(t, "other", 2<<20)
	old := filepath.Join(filepath.Dir(path), "old")
	if err := errors.Join(os.Rename(path, old), os.Rename(other, path)); err != nil {
		t.Fatal(err)
	}
	if got := maps(t, m, "uid-1", block(path)); got != device {
		t.Errorf("its device is %s now, not %s", got, device)
	}
	begins(t, maps(t, m, "uid-2", block(path)), "other")
	begins(t, device, "first")
	if err := errors.Join(m.Teardown(t.Context(), "uid-1"), m.Teardown(t.Context(), "uid-2")); err != nil {
		t.Error(err)
	}
	if len(loopsOf(t, path))+len(loopsOf(t, old)) > 0 {
		t.Error("devices are left")
	}
}

// TestLoopOfOthers: what another program has attached is used where it shows the file as it is, and never detached.
func TestLoopOfOthers(t *testing.T) {
	for what, test := range map[string]struct {
		change func(*unix.LoopInfo64)
		ro     bool
		want   string
	}{
		"whole":           {func(*unix.LoopInfo64) {}, false, ""},
		"a part":          {func(i *unix.LoopInfo64) { i.Offset = 512 }, false, "a part of "},
		"until it closes": {func(i *unix.LoopInfo64) { i.Flags |= unix.LO_FLAGS_AUTOCLEAR }, false, "by another program"},
		"for reading":     {func(i *unix.LoopInfo64) { i.Flags |= unix.LO_FLAGS_READ_ONLY }, false, "which is read-only"},
		"for a reader":    {func(i *unix.LoopInfo64) { i.Flags |= unix.LO_FLAGS_READ_ONLY }, true, ""},
	} {
		t.Run(what, func(t *testing.T) {
			m, path := newManager(t), backing(t, "first", 1<<20)
			f, err := openBacking(path, test.ro)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			config := unix.LoopConfig{Fd: uint32(f.Fd())}
			copy(config.Info.File_name[:], path)
			test.change(&config.Info)
			device, open := attach(t, &config)
			defer open.Close()
			p := block(path)
			p.ReadOnly = test.ro
			pod, from := claiming("uid-1", p)
			_, err = m.Setup(t.Context(), pod, from)
			if test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) || test.want == "" && err != nil {
				t.Errorf("%v, want %q", err, test.want)
			}
			if got := loopsOf(t, path); len(got) != 1 || got[0].path != device {
				t.Errorf("devices %+v, want %s alone", got, device)
			}
			if err := m.Teardown(t.Context(), "uid-1"); err != nil {
				t.Error(err)
			}
			if len(loopsOf(t, path)) != 1 {
				t.Error("another program's device is detached")
			}
		})
	}
}

// attach attaches as another program does, and holds the device open.
func attach(t *testing.T, config *unix.LoopConfig) (string, *os.File) {
	t.Helper()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	for range loopTries {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			t.Fatal(err)
		}
		path := fmt.Sprintf("/dev/loop%d", n)
		device, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err = unix.IoctlLoopConfigure(int(device.Fd()), config); err == nil {
			return path, device
		}
		device.Close()
		if !errors.Is(err, unix.EBUSY) {
			t.Fatal(err)
		}
	}
	t.Fatal("no loop device is free")
	return "", nil
}

// TestLoopOutlivesItsEnd: a device that was detached while a process had it open is kept when a pod wants it again.
func TestLoopOutlivesItsEnd(t *testing.T) {
	m, path := newManager(t), backing(t, "first", 1<<20)
	device := maps(t, m, "uid-1", block(path))
	open, err := os.Open(device)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Teardown(t.Context(), "uid-1"); err != nil {
		t.Fatal(err)
	}
	if got := loopsOf(t, path); len(got) != 1 || !got[0].ends {
		t.Fatalf("the device is %+v, and a process has it open", got)
	}
	if got := maps(t, m, "uid-2", block(path)); got != device {
		t.Errorf("the second device of the file is %s", got)
	}
	open.Close()
	begins(t, device, "first")
	if got := loopsOf(t, path); len(got) != 1 || got[0].ends {
		t.Errorf("the device is %+v", got)
	}
	if err := m.Teardown(t.Context(), "uid-2"); err != nil || len(loopsOf(t, path)) > 0 {
		t.Errorf("it is left: %v", err)
	}
}

// TestLoopsAtOnce has pods of two nodes ask for devices at the same time: a file has one, and no two files have the same.
func TestLoopsAtOnce(t *testing.T) {
	nodes := []*Manager{newManager(t), newManager(t)}
	paths := []string{backing(t, "zero", 1<<20), backing(t, "one", 1<<20)}
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			pod, from := claiming(types.UID(fmt.Sprint("uid-", i)), block(paths[i%2]))
			if _, err := nodes[i%2].Setup(t.Context(), pod, from); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i, want := range []string{"zero", "one"} {
		got := loopsOf(t, paths[i])
		if len(got) != 1 {
			t.Fatalf("%s has the devices %+v", want, got)
		}
		begins(t, got[0].path, want)
		if err := nodes[1-i].loops.release(); err != nil || len(loopsOf(t, paths[i])) != 1 {
			t.Errorf("the other node has detached it: %v", err)
		}
	}
	for i := range 16 {
		wg.Go(func() {
			if err := nodes[i%2].Teardown(t.Context(), types.UID(fmt.Sprint("uid-", i))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(loopsOf(t, paths[0]))+len(loopsOf(t, paths[1])) > 0 {
		t.Error("devices are left")
	}
}

// TestLoopGrows: the device of a file that has grown is as large; that of another program is left.
func TestLoopGrows(t *testing.T) {
	m, path := newManager(t), backing(t, "first", 1<<20)
	device := maps(t, m, "uid-1", block(path))
	if err := errors.Join(os.Truncate(path, 3<<20), m.Resized(path), m.Resized("/absent")); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if size, err := f.Seek(0, 2); err != nil || size != 3<<20 {
		t.Errorf("its size is %d, %v", size, err)
	}
	if _, err := f.WriteAt(bytes.Repeat([]byte("x"), 4096), 3<<20-4096); err != nil || f.Sync() != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(path); err != nil || text[3<<20-1] != 'x' {
		t.Errorf("the file has not what was written to the device: %v", err)
	}
}
