package etcd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"
)

const (
	// reserveSize is kept from everybody, for what etcd must write to come up again on a full disk: a WAL segment is
	// 64 MB. On a small disk it is a share.
	reserveSize  = 96 << 20
	reserveShare = 20
	// lowSize and lowShare of the disk are when it is told that it fills, shortSize and shortShare when etcd takes no more
	// writes while it still can; whichever is less.
	lowSize    = 1 << 30
	lowShare   = 10
	shortSize  = 256 << 20
	shortShare = 20
	// leastRoom is what a start needs: some pages of the database, and the WAL segment that is there already.
	leastRoom = 16 << 20
	// diskEvery is how often the disk is looked at: at 100 MB/s a second takes less than is between low and short.
	diskEvery = time.Second
)

// space is what a file system has for root, in bytes.
type space struct{ free, size int64 }

// fullness says how much of the disk is left.
type fullness int

const (
	ample fullness = iota
	low
	short
)

// fullness judges the space; one that was short has to grow by half before it is not, so that writes do not begin and end
// with every file that is removed.
func (s space) fullness(before fullness) fullness {
	least := min(shortSize, s.size/shortShare)
	if before == short {
		least += least / 2
	}
	switch {
	case s.free < least:
		return short
	case s.free < min(lowSize, s.size/lowShare):
		return low
	}
	return ample
}

// reserve is the size of the reserve file on a disk.
func (s space) reserve() int64 { return min(reserveSize, s.size/reserveShare) }

func (s space) String() string { return fmt.Sprintf("%d of %d MiB are left", s.free>>20, s.size>>20) }

// disk is the file system of the embedded etcd.
type disk struct {
	dir string
	log *slog.Logger
	// broke receives why etcd could not write, once: it does nothing more then.
	broke chan error

	mu     sync.Mutex
	space  space
	level  fullness
	broken error // what broke received
}

func newDisk(dir string, log *slog.Logger) *disk {
	return &disk{dir: dir, log: log, broke: make(chan error, 1)}
}

func (d *disk) reserveFile() string { return filepath.Join(d.dir, "reserve") }

func (d *disk) read() (space, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(d.dir, &s); err != nil {
		return space{}, fmt.Errorf("cannot read the size of the disk of %s: %w", d.dir, err)
	}
	return space{int64(s.Bavail) * s.Bsize, int64(s.Blocks) * s.Bsize}, nil
}

// look measures the disk, tells when its level changes, and keeps the reserve while there is room for it. It returns true
// where etcd has to take notice.
func (d *disk) look() bool {
	s, err := d.read()
	if err != nil {
		return false // whoever writes there will tell
	}
	d.mu.Lock()
	before := d.level
	d.space, d.level = s, s.fullness(before)
	now := d.level
	d.mu.Unlock()
	if now == ample {
		d.setAside(s)
	}
	if now == before {
		return false
	}
	switch now {
	case ample:
		d.log.Info("the disk of the cluster's data has room again", "dir", d.dir, "free", s.free, "size", s.size)
	case low:
		d.log.Warn("the disk of the cluster's data is filling", "dir", d.dir, "free", s.free, "size", s.size)
	case short:
		d.log.Error("the disk of the cluster's data is nearly full: no changes are taken until there is room", "dir", d.dir, "free", s.free, "size", s.size)
	}
	return now == short || before == short
}

// setAside makes the reserve file unless it is there, or would take most of what is left.
func (d *disk) setAside(s space) {
	if _, err := os.Stat(d.reserveFile()); err == nil || s.free < 4*s.reserve() {
		return
	}
	f, err := os.OpenFile(d.reserveFile(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, s.reserve()), f.Close())
	}
	if err != nil {
		d.log.Warn("cannot set disk space aside", "error", err)
	}
}

// release gives the reserve back, for etcd to come up with; without one it does nothing.
func (d *disk) release() {
	err := os.Remove(d.reserveFile())
	switch {
	case err == nil:
		d.log.Warn("the disk space that was set aside is used to come up again", "dir", d.dir)
	case !errors.Is(err, fs.ErrNotExist):
		d.log.Warn("cannot use the disk space that was set aside", "error", err)
	}
}

// state is what is wrong with the disk, and what will be if it goes on filling. Either may be empty.
func (d *disk) state() (warning string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.broken != nil:
		return "", fmt.Errorf("etcd has stopped: the disk of %s cannot be written (%s): %w; it goes on by itself when it can", d.dir, d.space, d.broken)
	case d.level == short:
		return "", fmt.Errorf("the disk of %s is nearly full, %s: no changes are taken until there is room", d.dir, d.space)
	case d.level == low:
		return fmt.Sprintf("the disk of %s is filling, %s", d.dir, d.space), nil
	}
	return "", nil
}

func (d *disk) isShort() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.level == short
}

// dead says that etcd has stopped.
func (d *disk) dead() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.broken != nil
}

// fail takes in that etcd could not write.
func (d *disk) fail(cause error) {
	s, err := d.read()
	d.mu.Lock()
	first := d.broken == nil
	if first {
		d.broken = cause
	}
	if err == nil {
		d.space = s
	}
	d.mu.Unlock()
	if first {
		d.log.Error("etcd has stopped, since its disk cannot be written", "dir", d.dir, "error", cause)
		d.broke <- cause
	}
}

// awaitRoom returns when files can be written and there is enough for a start, or ctx ends. It gives the reserve away first.
func (d *disk) awaitRoom(ctx context.Context) error {
	var told time.Time
	for released := false; ; sleep(ctx, diskEvery) {
		err := d.room()
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		if !released {
			d.release()
			released = true
			continue
		}
		if time.Since(told) > tellEvery {
			told = time.Now()
			d.log.Error("etcd cannot run yet, waiting for room on its disk", "dir", d.dir, "needed", leastRoom, "error", err)
		}
	}
}

// room says why a start would fail.
func (d *disk) room() error {
	probe := filepath.Join(d.dir, "probe")
	s, err := d.read()
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.space = s
	d.mu.Unlock()
	err = os.WriteFile(probe, make([]byte, 4096), 0o600)
	if err = errors.Join(err, removeIfThere(probe)); err != nil {
		return err
	}
	if s.free < leastRoom {
		return fmt.Errorf("%s", s)
	}
	return nil
}

func removeIfThere(name string) error {
	if err := os.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// ofDisk says whether an error is the disk's, which may pass, and not of what is on it.
func ofDisk(err error) bool {
	for _, errno := range []unix.Errno{unix.ENOSPC, unix.EROFS, unix.EDQUOT, unix.EIO} {
		if errors.Is(err, errno) || strings.Contains(err.Error(), errno.Error()) {
			return true
		}
	}
	return false
}

// onDeath is what etcd runs after its last words. Where the disk is the cause, the goroutine stands still with all it
// holds, so that nothing is done to half of a write, and this process goes on; else it ends as etcd wants it.
type onDeath struct {
	disk      *disk
	otherwise zapcore.CheckWriteHook
}

// OnWrite implements zapcore.CheckWriteHook.
func (o onDeath) OnWrite(entry *zapcore.CheckedEntry, fields []zapcore.Field) {
	for _, f := range fields {
		if err, ok := f.Interface.(error); ok && ofDisk(err) {
			o.disk.fail(fmt.Errorf("%s: %w", entry.Message, err))
			select {}
		}
	}
	o.otherwise.OnWrite(entry, fields)
}
