package volumes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
)

// SubPath resolves a subPath inside a volume and returns a path on the host that a container may mount: a bind mount
// of what was resolved, so nobody can swap it for a link afterwards. Links that lead out of the volume are refused. A
// path that does not exist is made as a directory, unless the volume is read-only.
//
// Container and index (of the mount in its container) name the bind mount; calling again for the same ones returns
// what they resolve to now. It goes with the pod's Teardown.
func (m *Manager) SubPath(ctx context.Context, uid types.UID, volume Mounted, subPath, container string, index int) (string, error) {
	unlock, err := m.lock(uid)
	if err != nil {
		return "", err
	}
	defer unlock()
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if filepath.IsAbs(subPath) || hasDotDot(subPath) || strings.ContainsAny(container, "/\x00") || container == "" {
		return "", fmt.Errorf("cannot mount subPath %q: must be relative and must not contain '..'", subPath)
	}
	fd, err := openBeneath(volume.HostPath, filepath.Clean(subPath), !volume.ReadOnly)
	if err != nil {
		return "", fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", subPath, container, err)
	}
	defer unix.Close(fd)
	target := filepath.Join(m.podDir(uid), "subpaths", container, fmt.Sprint(index))
	if err := bind(fd, target); err != nil {
		return "", fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", subPath, container, err)
	}
	return target, nil
}

// openBeneath opens path (O_PATH) below root, never leaving it, and makes the directories that are missing if asked.
func openBeneath(root, path string, create bool) (int, error) {
	rootFD, err := unix.Open(root, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(rootFD)
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := resolve(rootFD, path, &how)
	if err == nil || !create || !errors.Is(err, unix.ENOENT) {
		return fd, describe(err)
	}
	// Each step opens the parent first and makes the child in what was opened.
	parts := strings.Split(path, "/")
	for i := range parts {
		prefix := strings.Join(parts[:i+1], "/")
		fd, err := resolve(rootFD, prefix, &how)
		if err == nil {
			unix.Close(fd)
			continue
		}
		if !errors.Is(err, unix.ENOENT) {
			return -1, describe(err)
		}
		parent, err := resolve(rootFD, filepath.Dir(prefix), &how)
		if err != nil {
			return -1, describe(err)
		}
		err = makeLike(parent, parts[i])
		unix.Close(parent)
		if err != nil {
			return -1, err
		}
	}
	fd, err = resolve(rootFD, path, &how)
	return fd, describe(err)
}

// resolve tries again when something was renamed meanwhile, for which the kernel gives up.
func resolve(root int, path string, how *unix.OpenHow) (int, error) {
	for range 100 {
		fd, err := unix.Openat2(root, path, how)
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
	return -1, unix.EAGAIN
}

// makeLike makes a directory with its parent's owner and mode, so that whoever may write there may write in it. What a
// pod put in its place meanwhile keeps the owner it has.
func makeLike(parent int, name string) error {
	err := unix.Mkdirat(parent, name, madeMode)
	if errors.Is(err, unix.EEXIST) {
		return nil // a moment ago, by somebody else: what it is, is looked at next
	}
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(parent, &st); err != nil {
		return err
	}
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	made := os.NewFile(uintptr(fd), name)
	defer made.Close()
	if fresh, err := isFresh(made); err != nil || !fresh {
		return errors.Join(err, errSwapped)
	}
	if err := unix.Fchown(fd, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return unix.Fchmod(fd, st.Mode&0o7777)
}

// madeMode is what a directory has until it is known to be the one that was made.
const madeMode = 0o700

var errSwapped = errors.New("it was replaced while it was made")

// isFresh says whether a directory is as makeLike makes it: root's own, private and empty.
func isFresh(dir *os.File) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return false, err
	}
	names, err := dir.Readdirnames(1)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return len(names) == 0 && st.Mode&0o777 == madeMode && st.Uid == uint32(os.Geteuid()), nil
}

func describe(err error) error {
	if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.ELOOP) {
		return errors.New("it leads out of its volume")
	}
	return err
}

// bind mounts what the descriptor stands for at target.
func bind(fd int, target string) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	for { // what an earlier start of the container mounted
		err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err == nil {
			continue
		}
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		return err
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err := os.Mkdir(target, 0o750); err != nil {
			return err
		}
	} else {
		f, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL, 0o640)
		if err != nil {
			return err
		}
		f.Close()
	}
	return unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), target, "", unix.MS_BIND, "")
}
