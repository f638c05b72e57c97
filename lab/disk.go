package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// mountDisk gives the host's data folder a file system of its own, of the size that the lab's options state, in memory: it keeps what
// is on it while the machine runs, whatever becomes of the host. Without a size the folder is on the machine's disk.
func (l *Lab) mountDisk(h *Host) error {
	size := l.state.Options.Disk
	if size == 0 {
		return nil
	}
	if err := unix.Mount("tmpfs", h.DataDir(), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("mode=755,size=%d", size)); err != nil {
		return fmt.Errorf("cannot make the disk of host %s: %w", h.Name, err)
	}
	return nil
}

// unmountDisks takes away the file systems of a lab's data folders; those that have none are passed over.
func unmountDisks(dir string, hosts []string) error {
	var errs []error
	for _, name := range hosts {
		at := filepath.Join(dir, "hosts", name, "data")
		err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("cannot remove the disk of host %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// filler is the file that fills a host's disk.
func (h *Host) filler() string { return filepath.Join(h.DataDir(), "filler") }

// FillDisk leaves no room on the file system of the host's data folder, which the lab must have been given a size for. Doing it again
// takes what has become free meanwhile; Heal makes room, a reboot does not.
func (l *Lab) FillDisk(h *Host) error {
	if l.state.Options.Disk == 0 || h.Role == roleHub {
		return fmt.Errorf("cannot fill the disk of %s: it is the machine's own (a lab that is made with --disk SIZE has others)", h.Name)
	}
	f, err := os.OpenFile(h.filler(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("cannot fill the disk of %s: %w", h.Name, err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("cannot fill the disk of %s: %w", h.Name, err)
	}
	// Others write, too: what there was room for a moment ago may not fit any more. The last page is found by halves.
	for end, step := info.Size(), l.state.Options.Disk; step > 0; {
		switch err := unix.Fallocate(int(f.Fd()), 0, end, step); {
		case err == nil:
			end += step
		case errors.Is(err, unix.ENOSPC):
			step /= 2
		case !errors.Is(err, unix.EINTR):
			return fmt.Errorf("cannot fill the disk of %s: %w", h.Name, err)
		}
	}
	return nil
}

// emptyDisk makes the room again that FillDisk has taken.
func emptyDisk(h *Host) error {
	if err := os.Remove(h.filler()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot make room on the disk of %s: %w", h.Name, err)
	}
	return nil
}

// isFull says whether FillDisk has filled the host's disk.
func isFull(h *Host) bool {
	_, err := os.Stat(h.filler())
	return err == nil
}

// empty removes all that a folder has, and leaves the folder, which may be where a file system is mounted.
func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}
