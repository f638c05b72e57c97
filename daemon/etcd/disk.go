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

	"lockstep/internal/room"
	"lockstep/internal/sleep"
)

const (
	// reserveSize is kept from everybody, for what etcd must write to come up again on a full disk: a WAL segment is
	// 64 MB. On a small disk it is a share.
	reserveSize  = 96 << 20
	reserveShare = 20
	// leastRoom is what a start needs: some pages of the database, and the WAL segment that is there already.
	leastRoom = 16 << 20
	// diskEvery is how often the disk is looked at: at 100 MB/s a second takes less than is between low and short.
	diskEvery = time.Second
)

// fullness says how much of the disk is left.
type fullness int

const (
	ample fullness = iota
	low
	short
)

// judge the space; one that was short has to grow to what others keep before it is not.
func judge(s room.Space, before fullness) fullness {
	least := s.Short()
	if before == short {
		least = s.Kept()
	}
	switch {
	case s.Free < least:
		return short
	case s.Free < s.Low():
		return low
	}
	return ample
}

// reserve is the size of the reserve file on a disk.
func reserve(s room.Space) int64 { return min(reserveSize, s.Size/reserveShare) }

// disk is the file system of the embedded etcd.
type disk struct {
	dir string
	log *slog.Logger
	// broke receives why etcd could not write, once: it does nothing more then.
	broke chan error

	told bool // that no space can be set aside; look's own

	mu     sync.Mutex
	space  room.Space
	level  fullness
	broken error // what broke received
}

func newDisk(dir string, log *slog.Logger) *disk {
	return &disk{dir: dir, log: log, broke: make(chan error, 1)}
}

func (d *disk) reserveFile() string { return filepath.Join(d.dir, "reserve") }

// look measures the disk, tells when its level changes, and keeps the reserve while there is room for it. It returns true
// where etcd has to take notice.
func (d *disk) look() bool {
	s, err := room.Of(d.dir)
	if err != nil {
		return false // whoever writes there will tell
	}
	d.mu.Lock()
	before := d.level
	d.space, d.level = s, judge(s, before)
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
		d.log.Info("the disk of the cluster's data has room again", "dir", d.dir, "free", s.Free, "size", s.Size)
	case low:
		d.log.Warn("the disk of the cluster's data is filling", "dir", d.dir, "free", s.Free, "size", s.Size)
	case short:
		d.log.Error("the disk of the cluster's data is nearly full: no changes are taken until there is room", "dir", d.dir,
			"free", s.Free, "size", s.Size)
	}
	return now == short || before == short
}

// setAside makes the reserve file unless it is there, whole, or would take most of what is left.
func (d *disk) setAside(s room.Space) {
	if i, err := os.Stat(d.reserveFile()); err == nil && i.Size() > 0 || s.Free < 4*reserve(s) {
		return
	}
	f, err := os.OpenFile(d.reserveFile(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, reserve(s)), f.Close())
	}
	if err != nil && !d.told {
		d.told = true
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
		return "", fmt.Errorf("etcd has stopped: the disk of %s cannot be written (%s): %w; it goes on by itself when it can",
			d.dir, d.space, d.broken)
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
	s, err := room.Of(d.dir)
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
	for released := false; ; sleep.For(ctx, diskEvery) {
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
	s, err := room.Of(d.dir)
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
	if s.Free < leastRoom {
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
