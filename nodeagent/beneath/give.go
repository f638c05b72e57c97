package beneath

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// What a group is given of files and of directories, beside what there is; the kubelet's.
const (
	groupFile = 0o660
	groupDir  = groupFile | 0o110 | unix.S_ISGID
)

// Give gives all in a directory to a group, which may read and write it then, and what is made there later, too; the
// directory itself comes last, so that Given is false until all is done. Links are given and not followed; what is on
// another file system is left alone, and so is what is on one that cannot be changed. A pod can write no part of the path.
func Give(ctx context.Context, path string, group int64) error {
	own, err := below(ctx, path, "give", func(in *Dir, name string, at int) error { return in.fail("give", name, give(at, group)) })
	if err != nil {
		return err
	}
	defer own.Close()
	return own.fail("give", "", give(own.fd(), group))
}

// below does something with all in a directory, by a descriptor of each that only stands for it (O_PATH), and opens the directory itself,
// which the caller closes. Opening is what its errors call open.
func below(ctx context.Context, path, open string, do func(in *Dir, name string, at int) error) (own *Dir, err error) {
	top, err := Open(path)
	if err != nil {
		return nil, err
	}
	if own, err = top.Open("."); err != nil {
		top.Close()
		return nil, err
	}
	m := meter{linked: map[identity]bool{}, visit: func(in *Dir, name string) error {
		at, err := in.open(name, unix.O_PATH)
		switch {
		case passing(err) || errors.Is(err, unix.EXDEV):
			return nil
		case err != nil:
			return in.fail(open, name, err)
		}
		defer unix.Close(at)
		return do(in, name, at)
	}}
	if err := m.walk(ctx, top); err != nil && !errors.Is(err, ErrChanged) {
		own.Close()
		return nil, err
	}
	return own, nil
}

// Given says whether a directory is as Give leaves it.
func Given(path string, group int64) (bool, error) {
	d, err := Open(path)
	if err != nil {
		return false, err
	}
	defer d.Close()
	have, err := d.Attr()
	return err == nil && *have.Group == group && have.Mode&groupDir == groupDir, err
}

// give gives what a descriptor (O_PATH) stands for.
func give(fd int, group int64) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	err := unix.Fchownat(fd, "", -1, int(group), unix.AT_EMPTY_PATH)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFLNK {
		mode := st.Mode&0o7777 | groupFile
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			mode |= groupDir
		}
		err = unix.Fchmodat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), mode, 0) // a descriptor of O_PATH takes no fchmod
	}
	if errors.Is(err, unix.EROFS) {
		return nil
	}
	return err
}

// Each does something with each regular file and directory in a directory, by a descriptor of it, and with the directory itself last. What
// is made meanwhile may be left out. Links and special files are left alone, and so is what is on another file system. A pod can write no
// part of the path.
func Each(ctx context.Context, path string, do func(fd int) error) error {
	own, err := below(ctx, path, "open", func(in *Dir, name string, at int) error {
		var st unix.Stat_t
		if err := unix.Fstat(at, &st); err != nil {
			return in.fail("stat", name, err)
		}
		if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFDIR {
			return nil
		}
		// It is what it was found to be: nothing that is waited for.
		fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", at), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return in.fail("open", name, err)
		}
		defer unix.Close(fd)
		return in.fail("change", name, do(fd))
	})
	if err != nil {
		return err
	}
	defer own.Close()
	return own.Control(do)
}

// Control does something with the directory, by its descriptor.
func (d *Dir) Control(do func(fd int) error) error { return d.fail("change", "", do(d.fd())) }
