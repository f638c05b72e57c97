package source

import (
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"lockstep/internal/asroot"
	"lockstep/internal/room"
)

// TestFetchLeavesRoom runs inside a mount namespace with a small disk; see TestInsideSmallDisk.
func TestFetchLeavesRoom(t *testing.T) {
	asroot.Test(t)
	dir := t.TempDir()
	out, err := exec.Command("unshare", "-m", "sh", "-ec", `mount -t tmpfs -o size=60m none "$1"
		LOCKSTEP_SMALL_DISK="$1" exec "$0" -test.run '^TestInsideSmallDisk$' -test.v`, os.Args[0], dir).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestInsideSmallDisk") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestInsideSmallDisk fetches more than the disk has room for: the source says so, what etcd needs stays free while the
// fetch goes on, and the same commit is read once there is room.
func TestInsideSmallDisk(t *testing.T) {
	disk := os.Getenv("LOCKSTEP_SMALL_DISK")
	if disk == "" {
		return // a part of the test above
	}
	manifest := blob("good")
	files := treeOf("100644 a.yaml", manifest.hash())
	commit := commitOf(files, "much")
	e := newEvil(t)
	least := int64(1 << 40)
	e.branch("main", commit, func(w io.Writer, _ []thing) {
		const blobs = 100
		p := newPacker(w, 3+blobs)
		for _, o := range []thing{commit, files, manifest} {
			p.add(o)
		}
		noise := rand.NewChaCha8([32]byte{})
		for range blobs {
			data := make([]byte, 1<<20)
			noise.Read(data)
			p.add(thing{"blob", data})
			if s, err := room.Of(disk); err == nil {
				least = min(least, s.Free)
			}
		}
		p.end()
	})
	r := watchWith(t, Options{DataDir: disk}, e.source("main"))
	_, err := r.Look(t.Context(), "main")
	if err == nil || !strings.Contains(err.Error(), "the disk of "+disk) || !strings.Contains(err.Error(), "has too little room") {
		t.Errorf("said: %v", err)
	}
	s, err := room.Of(disk)
	if err != nil {
		t.Fatal(err)
	}
	if least < s.Short() {
		t.Errorf("%d KiB were left, etcd needs %d", least>>10, s.Short()>>10)
	}
	if s.Free < s.Size*9/10 {
		t.Errorf("what came in vain is still there: %s", s)
	}
	if err := os.WriteFile(filepath.Join(disk, "fill"), make([]byte, s.Free-s.Kept()+1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	fetched := len(e.wanted)
	if _, err := r.Look(t.Context(), "main"); err == nil || !strings.Contains(err.Error(), "has too little room") ||
		len(e.wanted) != fetched {
		t.Errorf("said of a disk without room: %v, %d fetches", err, len(e.wanted)-fetched)
	}
	if err := syscall.Mount("none", disk, "tmpfs", syscall.MS_REMOUNT, "size=400m"); err != nil {
		t.Fatal(err)
	}
	rev, err := r.Look(t.Context(), "main")
	if err != nil {
		t.Fatal(err)
	}
	if got := contents(t, rev); got != "a.yaml=good;" {
		t.Errorf("read %s", got)
	}
}
