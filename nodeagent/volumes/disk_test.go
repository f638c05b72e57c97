package volumes

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// disk is a block device of so many bytes that begins with a text.
func disk(t *testing.T, text string, size int64) (device, path string) {
	t.Helper()
	path = backing(t, text, size)
	f, err := openBacking(path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	device, err = attachLoop(f, path)
	if err != nil {
		t.Fatal(err)
	}
	return device, path
}

// TestDisk has pods mount an empty disk, which gets a file system once, however many find it empty at once; what they write stays.
func TestDisk(t *testing.T) {
	m, ctx := newManager(t), t.Context()
	device, _ := disk(t, "", 32<<20)
	group := int64(2000)
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			pod, from := claiming(types.UID(fmt.Sprint("uid-", i)), local(device))
			pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &group}
			got, err := m.Setup(ctx, pod, from)
			if err != nil {
				t.Error(err)
				return
			}
			if err := os.WriteFile(filepath.Join(got["data"].HostPath, fmt.Sprint(i)), nil, 0o600); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	shown := func(dir string) string {
		t.Helper()
		entries, err := os.ReadDir(dir)
		var st unix.Stat_t
		var fs unix.Statfs_t
		if err := errors.Join(err, unix.Stat(dir, &st), unix.Statfs(dir, &fs)); err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return fmt.Sprintf("%v %d %x", names, st.Gid, fs.Type)
	}
	const want = "[0 1 2 lost+found] 2000 ef53"
	if got := shown(m.volumeDir("uid-0", "data")); got != want {
		t.Errorf("it has %s, want %s", got, want)
	}
	// Readers beside writers, after them, and before.
	reads := local(device)
	reads.ReadOnly = true
	for i, ends := range []bool{false, true, false} {
		uid := types.UID(fmt.Sprint("reader-", i))
		if ends {
			for _, uid := range []types.UID{"uid-0", "uid-1", "uid-2", "reader-0"} {
				if err := m.Teardown(ctx, uid); err != nil {
					t.Fatal(err)
				}
			}
		}
		pod, from := claiming(uid, reads)
		for range 2 {
			got, err := m.Setup(ctx, pod, from)
			if err != nil {
				t.Fatalf("%s: %v", uid, err)
			}
			if !got["data"].ReadOnly || shown(got["data"].HostPath) != want {
				t.Errorf("%s: %+v has %s", uid, got["data"], shown(got["data"].HostPath))
			}
		}
	}
	pod, from := claiming("uid-3", local(device))
	if _, err := m.Setup(ctx, pod, from); err == nil || !strings.HasSuffix(err.Error(), "disk "+device+" is mounted read-only") {
		t.Errorf("a disk that is mounted for reading is mounted for writing: %v", err)
	}
	for _, uid := range []types.UID{"reader-1", "reader-2", "uid-3"} {
		if err := m.Teardown(ctx, uid); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := m.Setup(ctx, pod, from); err != nil || shown(got["data"].HostPath) != want {
		t.Errorf("a writer after readers: %v", err)
	}
	if err := m.Teardown(ctx, "uid-3"); err != nil {
		t.Fatal(err)
	}
}

// TestDiskWithData: nothing is written to a disk that has anything, or that cannot be had as it is asked for.
func TestDiskWithData(t *testing.T) {
	for what, test := range map[string]struct {
		text   string
		make   []string // a program that writes to the file
		kind   string
		ro     bool
		reason string
		want   string
	}{
		"a database's": {text: "no signature that anybody knows", want: "has data, but no file system that is known, and is not formatted"},
		"deep inside":  {text: strings.Repeat("\x00", 1<<19) + "data", want: "has data, but no file system that is known"},
		"swap":         {make: []string{"mkswap"}, want: "mount failed: exit status 32"},
		"another file system": {make: []string{"mkfs.ext2", "-q", "-F"}, kind: "xfs", want: "mount failed: exit status 32\n" +
			"Mounting command: mount\nMounting arguments: -t xfs -o defaults "},
		"to be read":           {ro: true, want: "as we are manipulating it in read-only mode"},
		"an unknown kind":      {kind: "nofs", want: `format of disk `},
		"partitions":           {text: partitioned(), want: "mount failed: exit status 32"},
		"a kind with a reason": {kind: "nofs", want: `MountVolume.MountDevice failed for volume "pv" : local: failed to mount device `},
	} {
		t.Run(what, func(t *testing.T) {
			m := newManager(t)
			device, path := disk(t, test.text, 16<<20)
			if test.make != nil {
				if out, err := exec.Command(test.make[0], append(test.make[1:], device)...).CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			}
			before := whole(t, device, path)
			p := local(device)
			p.ReadOnly = test.ro
			if test.kind != "" {
				p.Source.Local.FSType = &test.kind
			}
			pod, from := claiming("uid-1", p)
			_, err := m.Setup(t.Context(), pod, from)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
			if after := whole(t, device, path); after != before {
				t.Error("the disk has changed")
			}
			if err := m.Teardown(t.Context(), "uid-1"); err != nil {
				t.Error(err)
			}
		})
	}
}

// partitioned is how a disk with a table of one partition begins.
func partitioned() string {
	b := make([]byte, 512)
	copy(b[446:], []byte{0x80, 0, 2, 0, 0x83, 0, 2, 0, 1, 0, 0, 0, 16, 0, 0, 0})
	b[510], b[511] = 0x55, 0xaa
	return string(b)
}

// whole is all that a disk has.
func whole(t *testing.T, device, path string) string {
	t.Helper()
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(f.Sync(), f.Close())
	text, readErr := os.ReadFile(path)
	if err := errors.Join(err, readErr); err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestDiskIsRepaired damages a file system, which fsck repairs, and then so that it does not dare to.
func TestDiskIsRepaired(t *testing.T) {
	m, ctx := newManager(t), t.Context()
	bin, notes := t.TempDir(), filepath.Join(t.TempDir(), "notes")
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	fsck := func(code int) {
		t.Helper()
		script := fmt.Sprintf("#!/bin/sh\necho \"$@\" >>%s\necho wounded\nexit %d\n", notes, code)
		if err := os.WriteFile(filepath.Join(bin, "fsck"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	device, _ := disk(t, "", 16<<20)
	if out, err := exec.Command("mkfs.ext4", "-q", device).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for code, want := range map[int]string{0: "", 1: "", 8: "",
		4: "'fsck' found errors on device " + device + " but could not correct them: wounded"} {
		fsck(code)
		_ = os.Remove(notes)
		pod, from := claiming("uid-1", local(device))
		_, err := m.Setup(ctx, pod, from)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%d: %v, want %q", code, err, want)
		}
		if said, err := os.ReadFile(notes); err != nil || string(said) != "-a "+device+"\n" {
			t.Errorf("%d: fsck was called with %q, %v", code, said, err)
		}
		if err := m.Teardown(ctx, "uid-1"); err != nil {
			t.Error(err)
		}
	}
}

func TestParseFormat(t *testing.T) {
	for in, want := range map[string]string{
		"":                            "",
		"DEVNAME=/dev/a\nTYPE=ext4\n": "ext4",
		"TYPE=ext4\nPTTYPE=dos\n":     "unknown data, probably partitions",
		"PTTYPE=gpt\n":                "unknown data, probably partitions",
		"what is this":                "error",
	} {
		got, err := parseFormat(in)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// TestToolsAreBounded: of what a program prints without end the beginning is kept.
func TestToolsAreBounded(t *testing.T) {
	out, err := tool(t.Context(), time.Minute, "sh", "-c", "echo first; head -c 50000000 /dev/zero; exit 3")
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 3 || len(out) != maxOutput ||
		!strings.HasPrefix(string(out), "first\n") {
		t.Errorf("%d bytes, %v", len(out), err)
	}
}
