package csi

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Remove ends what a node has mounted of drivers' volumes, without these, and removes what it has kept of them. What else is in the
// directory, drivers' own and a kubelet's, stays. A directory that is absent is no error.
func Remove(dir string) error {
	l := layout{dir}
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	uids, err := l.withVolumes()
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	errs := []error{err}
	for _, uid := range uids {
		records, err := l.of(uid)
		errs = append(errs, err)
		for path, r := range records {
			errs = append(errs, removeVolume(l.target(uid, r.Name, r.Block), path))
		}
		l.drop(uid)
	}
	staged, err := l.stagedVolumes()
	errs = append(errs, err)
	for path, r := range staged {
		errs = append(errs, removeVolume(l.stagingPath(r.Driver, r.Handle, r.Name, r.Block), path))
	}
	for path := range staged {
		_ = os.Remove(filepath.Dir(path)) // a driver's
	}
	for _, empty := range []string{l.blocks() + "/publish", l.blocks() + "/staging", l.blocks(), l.staged(), l.plugins() + "/kubernetes.io",
		l.plugins(), l.registry(), l.pods()} {
		_ = os.Remove(empty) // it may be of use to others
	}
	errs = append(errs, unshare(dir))
	_ = os.Remove(dir)
	return errors.Join(errs...)
}

// removeVolume removes what is mounted at a path, with its record.
func removeVolume(path, record string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cannot unmount %s: %w", path, err)
	}
	if err := removeMountPoint(path); err != nil {
		return fmt.Errorf("cannot remove %s: %w", path, err)
	}
	return forget(record)
}

// unshare ends the mount by which New has shared a directory; one that is a disk's own is not that.
func unshare(dir string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(dir))
	if err != nil || len(mounts) == 0 || mounts[0].Root == "/" {
		return err
	}
	if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("cannot unmount %s: %w", dir, err)
	}
	return nil
}
