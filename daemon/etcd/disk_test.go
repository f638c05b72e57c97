package etcd

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"lockstep/internal/asroot"
	"lockstep/internal/eventually"
	"lockstep/internal/room"
)

func TestFullness(t *testing.T) {
	const mib, gib = 1 << 20, 1 << 30
	for _, c := range []struct {
		free, size int64
		before     fullness
		want       fullness
	}{
		{50 * gib, 100 * gib, ample, ample},
		{900 * mib, 100 * gib, ample, low},
		{255 * mib, 100 * gib, low, short},
		{300 * mib, 100 * gib, short, short},
		{385 * mib, 100 * gib, short, low},
		{2 * gib, 100 * gib, short, ample},
		{50 * mib, 400 * mib, ample, ample},
		{30 * mib, 400 * mib, ample, low},
		{19 * mib, 400 * mib, ample, short},
		{0, 0, ample, ample}, // no size is told
	} {
		if got := judge(room.Space{Free: c.free, Size: c.size}, c.before); got != c.want {
			t.Errorf("%d of %d MiB after %d: %d, want %d", c.free/mib, c.size/mib, c.before, got, c.want)
		}
	}
}

func TestWhatEtcdDiesOf(t *testing.T) {
	d := newDisk(t.TempDir(), slog.New(slog.DiscardHandler))
	log := zapTo(slog.New(slog.DiscardHandler), &(&Etcd{}).closing, d)
	for _, err := range []error{&os.PathError{Op: "write", Path: "db", Err: syscall.ENOSPC}, fmt.Errorf("commit: %v", syscall.EROFS)} {
		go log.Fatal("failed to commit tx", zap.Error(err)) // stands still
	}
	cause := <-d.broke
	if !ofDisk(cause) || !strings.Contains(cause.Error(), "failed to commit tx: ") {
		t.Errorf("%v", cause)
	}
	if _, err := d.state(); err == nil || !strings.Contains(err.Error(), d.dir) {
		t.Errorf("state %v", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("what is not the disk's does not end etcd")
		}
	}()
	log.Panic("other", zap.Error(errors.New("corrupt")))
}

// TestEarlyComplaints: what etcd says of a data directory without a term is not told, and all else is.
func TestEarlyComplaints(t *testing.T) {
	var out strings.Builder
	log := zapTo(slog.New(slog.NewTextHandler(&out, nil)), &(&Etcd{}).closing, newDisk(t.TempDir(), slog.New(slog.DiscardHandler)))
	term := errors.New("cannot detect storage schema version: missing term information")
	log.Error("failed to update storage version", zap.Error(term))
	if out.Len() > 0 {
		t.Errorf("told: %s", &out)
	}
	log.Error("failed to update storage version", zap.Error(errors.New("other")))
	if !strings.Contains(out.String(), "level=ERROR") || !strings.Contains(out.String(), "error=other") {
		t.Errorf("told: %q", &out)
	}
}

// TestFullAndReadOnlyDisk runs inside a mount namespace with a small disk; see inside.
func TestFullAndReadOnlyDisk(t *testing.T) {
	asroot.Test(t)
	dir := t.TempDir()
	for _, part := range []string{"TestInsideFull", "TestInsideReadOnly"} {
		out, err := exec.Command("unshare", "-m", "sh", "-ec", `mount -t tmpfs -o size=400m none "$1"
			LOCKSTEP_ETCD_DISK="$1" exec "$0" -test.run "^$2\$" -test.v`, os.Args[0], dir, part).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "inside: ok\n") {
			t.Errorf("%v: %s", err, out)
		}
	}
}

// inside is an embedded etcd on the small disk, whose maintenance runs; restarted receives when it would start again.
func inside(t *testing.T) (e *Etcd, dir string, restarted chan struct{}) {
	t.Helper()
	dir = os.Getenv("LOCKSTEP_ETCD_DISK")
	if dir == "" {
		return nil, "", nil // a part of the test above
	}
	restarted = make(chan struct{}, 1)
	err := os.MkdirAll(filepath.Join(dir, "etcd"), 0o700)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "etcd", "reserve"), nil, 0o600) // as a crash leaves it that comes before its space
	}
	if err != nil {
		t.Fatal(err)
	}
	e, err = Start(t.Context(), Options{
		DataDir: filepath.Join(dir, "etcd"), SocketDir: filepath.Join(dir, "s"),
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Restart: func() error {
			restarted <- struct{}{}
			return errors.New("the test goes on")
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = e.Run(t.Context()) }()
	t.Cleanup(func() {
		if !t.Failed() { // etcd may stand still, and is not ended
			fmt.Println("inside: ok")
			os.Exit(0)
		}
	})
	return e, dir, restarted
}

// awaitReserve returns once all that is set aside is on the disk: the reserve, and etcd's next WAL segment, which it makes beside all
// else. The files are there before their space is.
func awaitReserve(t *testing.T, dir string) {
	t.Helper()
	whole := func(pattern string) bool {
		files, _ := filepath.Glob(filepath.Join(dir, "etcd", pattern))
		for _, f := range files {
			if i, err := os.Stat(f); err == nil && i.Size() > 0 {
				return true
			}
		}
		return false
	}
	eventually.True(t, patience, "space set aside", func() bool {
		return whole("reserve") && whole(filepath.Join(dataDir, "member", "wal", "*.tmp"))
	})
}

// patience is how long the tests wait for what should take a second or two.
const patience = 60 * time.Second

// fill writes a file until only left bytes are free.
func fill(t *testing.T, name string, left int64) {
	t.Helper()
	s, err := room.Of(filepath.Dir(name))
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Fallocate(int(f.Fd()), 0, 0, s.Free-left); err != nil {
		t.Fatal(err)
	}
}

// TestInsideFull fills the disk in steps: it is told first, then changes are refused and deletions are not, and when there is
// room again changes are taken.
func TestInsideFull(t *testing.T) {
	e, dir, restarted := inside(t)
	if e == nil {
		return
	}
	awaitReserve(t, dir)
	if _, err := e.Client.Put(t.Context(), "a", "1"); err != nil {
		t.Fatal(err)
	}
	fill(t, filepath.Join(dir, "low"), 30<<20)
	eventually.True(t, patience, "told that it fills", func() bool {
		warning, err := e.Disk()
		return err == nil && strings.Contains(warning, "is filling")
	})
	fill(t, filepath.Join(dir, "short"), 10<<20)
	eventually.True(t, patience, "told that it is nearly full", func() bool {
		_, err := e.Disk()
		return err != nil && strings.Contains(err.Error(), filepath.Join(dir, "etcd")+" is nearly full, 10 of 400 MiB are left")
	})
	eventually.True(t, patience, "changes refused", func() bool {
		_, err := e.Client.Put(t.Context(), "a", "2")
		return err != nil && strings.Contains(err.Error(), "database space exceeded")
	})
	if _, err := e.Client.Delete(t.Context(), "a"); err != nil {
		t.Errorf("a deletion: %v", err)
	}
	// Somebody takes the rest, and etcd has to write all the same.
	fill(t, filepath.Join(dir, "rest"), 0)
	value := strings.Repeat("x", 1<<20)
	go func() {
		for i := range 200 {
			_, _ = e.Client.Txn(t.Context()).Then(clientv3.OpDelete(value[:1000] + fmt.Sprint(i))).Commit()
		}
	}()
	if err := os.Remove(filepath.Join(dir, "low")); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, patience, "changes taken again, or started again", func() bool {
		select {
		case <-restarted:
			return true
		default:
		}
		_, err := e.Client.Put(t.Context(), "a", "3")
		_, disk := e.Disk()
		return err == nil && disk == nil
	})
}

// TestInsideReadOnly has etcd die of its disk: the process goes on, says so, gives the reserve away, and starts again as soon
// as files can be written.
func TestInsideReadOnly(t *testing.T) {
	e, dir, restarted := inside(t)
	if e == nil {
		return
	}
	awaitReserve(t, dir)
	fill(t, filepath.Join(dir, "all"), 0)
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY, ""); err != nil {
		t.Logf("the disk cannot be made read-only while it is written: %v", err) // as the kernel does after errors
	}
	e.disk.fail(fmt.Errorf("failed to commit tx: %w", syscall.ENOSPC))
	eventually.True(t, patience, "starting again", func() bool {
		select {
		case <-restarted:
			return true
		default:
			return false
		}
	})
	if _, err := e.Disk(); err == nil ||
		!strings.Contains(err.Error(), "etcd has stopped: the disk of "+filepath.Join(dir, "etcd")+" cannot be written") {
		t.Errorf("disk: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "etcd", "reserve")); err == nil {
		t.Error("the reserve was not used")
	}
	if err := e.Close(); err == nil {
		t.Error("a server that stands still was stopped")
	}
}
