package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// checkHostPath checks, or makes, what is on the host.
func checkHostPath(source *corev1.HostPathVolumeSource) error {
	if !filepath.IsAbs(source.Path) || hasDotDot(source.Path) {
		return fmt.Errorf("invalid HostPath `%s`: must be absolute and must not contain '..'", source.Path)
	}
	kind := corev1.HostPathUnset
	if source.Type != nil {
		kind = *source.Type
	}
	info, err := os.Stat(source.Path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	exists := err == nil
	switch kind {
	case corev1.HostPathUnset:
		if !exists { // containerd's CRI plugin makes it so
			return makeHostDir(source.Path)
		}
		return nil
	case corev1.HostPathDirectoryOrCreate:
		if !exists {
			return makeHostDir(source.Path)
		}
		kind = corev1.HostPathDirectory
	case corev1.HostPathFileOrCreate:
		if !exists {
			return makeHostFile(source.Path)
		}
		kind = corev1.HostPathFile
	}
	want, known := hostPathTypes[kind]
	if !known {
		return fmt.Errorf("%s is an invalid volume type", kind)
	}
	if !exists || !want.holds(info.Mode()) {
		return fmt.Errorf("hostPath type check failed: %s is not a %s", source.Path, want.name)
	}
	return nil
}

// hostPathTypes are the types that are only checked, with the kubelet's words for them.
var hostPathTypes = map[corev1.HostPathType]struct {
	name  string
	holds func(fs.FileMode) bool
}{
	corev1.HostPathDirectory: {"directory", fs.FileMode.IsDir},
	corev1.HostPathFile:      {"file", fs.FileMode.IsRegular},
	corev1.HostPathSocket:    {"socket file", func(m fs.FileMode) bool { return m&fs.ModeSocket != 0 }},
	corev1.HostPathCharDev:   {"character device", func(m fs.FileMode) bool { return m&fs.ModeCharDevice != 0 }},
	corev1.HostPathBlockDev: {"block device", func(m fs.FileMode) bool {
		return m&fs.ModeDevice != 0 && m&fs.ModeCharDevice == 0
	}},
}

// makeHostDir makes a directory on the host, with those on the way to it.
func makeHostDir(path string) error {
	fd, err := openHost(path, true)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// makeHostFile makes an empty file on the host, in a directory that is there.
func makeHostFile(path string) error {
	dir, err := openHost(filepath.Dir(path), false)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	fd, err := unix.Openat(dir, filepath.Base(path), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return &fs.PathError{Op: "create", Path: path, Err: err}
	}
	return unix.Close(fd)
}

// maxLinks is how many links on one path are followed; the kernel's figure.
const maxLinks = 40

// openHost opens (O_PATH) a directory on the host that something is to be made in, step by step from the root, and
// makes those that are missing if asked. Links are followed only where root alone could have made them, such as
// /var/run: another pod may have the same directory, and lead what is made elsewhere.
func openHost(path string, create bool) (int, error) {
	at, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	rest := strings.Split(strings.Trim(filepath.Clean(path), "/"), "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		if name == "" || name == "." {
			continue
		}
		next, err := unix.Openat(at, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) && create {
			if err = unix.Mkdirat(at, name, 0o755); err == nil || errors.Is(err, unix.EEXIST) {
				next, err = unix.Openat(at, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			}
		}
		if err != nil {
			unix.Close(at)
			return -1, &fs.PathError{Op: "open", Path: path, Err: err}
		}
		target, err := trustedLink(at, next)
		if err == nil && target != "" {
			unix.Close(next)
			if links++; links > maxLinks {
				err = unix.ELOOP
			} else if filepath.IsAbs(target) {
				next, err = unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			} else {
				next, err = unix.Openat(at, ".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			}
			rest = append(strings.Split(strings.Trim(target, "/"), "/"), rest...)
		}
		unix.Close(at)
		if err != nil {
			return -1, &fs.PathError{Op: "open", Path: path, Err: err}
		}
		at = next
	}
	return at, nil
}

// errUntrustedLink says why nothing is made through a link.
var errUntrustedLink = errors.New("a link that others than root may have made leads there")

// trustedLink returns where a link leads that root made in a directory of root's; empty for what is no link.
func trustedLink(dir, fd int) (string, error) {
	var link, parent unix.Stat_t
	if err := unix.Fstat(fd, &link); err != nil {
		return "", err
	}
	if link.Mode&unix.S_IFMT != unix.S_IFLNK {
		return "", nil
	}
	if err := unix.Fstat(dir, &parent); err != nil {
		return "", err
	}
	if link.Uid != 0 || parent.Uid != 0 || parent.Mode&0o022 != 0 {
		return "", errUntrustedLink
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err == nil && n == 0 {
		err = unix.ENOENT
	}
	return string(buf[:n]), err
}
