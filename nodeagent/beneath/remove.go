package beneath

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	// maxHeld bounds the descriptors of one removal. What lies deeper is moved up first: a pod nests directories by
	// the hundred thousand in a second.
	maxHeld = 32
	// batch is how many names are read at a time, which bounds memory.
	batch = 1024
	// lifted begins the names of what is moved up. One that is taken is counted past.
	lifted = ".removed-"
)

// RemoveAll removes what is at a path, with all below it; an absent one is no error. A pod can write no part of the
// path but what is removed. Nothing may be mounted there: mount points are left, and an error.
func RemoveAll(ctx context.Context, path string) error {
	parent, err := Open(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer parent.Close()
	return parent.RemoveAll(ctx, filepath.Base(path))
}

// RemoveAll removes an entry, with all below it; an absent one is no error.
func (d *Dir) RemoveAll(ctx context.Context, name string) error {
	for {
		gone, err := d.removeOne(name)
		if gone || err != nil {
			return err
		}
		top, err := d.Open(name)
		if err != nil && !passing(err) {
			return err
		}
		if err == nil {
			lifts := 0
			err = top.clear(ctx, top, 1, &lifts)
			top.Close()
			if err != nil {
				return err
			}
		}
		if err := ctx.Err(); err != nil {
			return d.fail("remove", name, err)
		}
	}
}

// passing says that an entry is no directory any more, and may be removed now.
func passing(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// removeOne removes an entry unless it is a directory with something in it.
func (d *Dir) removeOne(name string) (gone bool, err error) {
	for range 3 { // it may become a directory, or none, between two calls
		err = unix.Unlinkat(d.fd(), name, 0)
		if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EPERM) {
			err = unix.Unlinkat(d.fd(), name, unix.AT_REMOVEDIR)
		}
		switch {
		case err == nil || errors.Is(err, unix.ENOENT):
			return true, nil
		case errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST):
			return false, nil
		case !errors.Is(err, unix.ENOTDIR):
			return false, d.fail("remove", name, err)
		}
	}
	return false, d.fail("remove", name, err)
}

// clear removes everything in a directory of the given depth. Directories too deep are moved to the top, which is
// cleared until nothing is left in it.
func (d *Dir) clear(ctx context.Context, top *Dir, depth int, lifts *int) error {
	for {
		names, _, err := d.Names(batch)
		if err != nil || len(names) == 0 {
			return err
		}
		for _, name := range names {
			if err := ctx.Err(); err != nil {
				return d.fail("remove", name, err)
			}
			gone, err := d.removeOne(name)
			switch {
			case err != nil:
				return err
			case gone:
				continue
			case depth >= maxHeld:
				err = d.lift(name, top, lifts)
			default:
				err = d.clearBelow(ctx, name, top, depth, lifts)
			}
			if err != nil && !passing(err) {
				return err
			}
		}
	}
}

func (d *Dir) clearBelow(ctx context.Context, name string, top *Dir, depth int, lifts *int) error {
	child, err := d.Open(name)
	if err != nil {
		return err
	}
	defer child.Close()
	if err := child.clear(ctx, top, depth+1, lifts); err != nil {
		return err
	}
	_, err = d.removeOne(name)
	return err
}

// lift moves a directory to the top.
func (d *Dir) lift(name string, top *Dir, lifts *int) error {
	for {
		*lifts++
		err := unix.Renameat(d.fd(), name, top.fd(), lifted+strconv.Itoa(*lifts))
		if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
			return d.fail("remove", name, err)
		}
	}
}
