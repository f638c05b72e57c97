package beneath

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Size is what files take of their file system.
type Size struct{ Bytes, Inodes uint64 }

// Add adds another size.
func (s *Size) Add(o Size) { s.Bytes, s.Inodes = s.Bytes+o.Bytes, s.Inodes+o.Inodes }

const (
	// maxPending bounds the directories that are known and not looked into yet: about 10 MB for names of usual length.
	maxPending = 1 << 17
	// maxLinked bounds the files with several names that are remembered, to count them once; beyond it they are
	// counted once a name.
	maxLinked = 1 << 17
)

// ErrChanged says that a directory was moved while it was measured, so that what lies below was not.
var ErrChanged = errors.New("it was moved meanwhile")

// Usage measures a file, or a directory with all below it on the same file system; one that is absent takes nothing. A
// pod can write no part of the path. With an error, what is returned was counted until then.
//
// One directory is open at a time, however deep they are nested: the way back up is checked against the way down.
func Usage(ctx context.Context, path string) (Size, error) {
	parent, err := Open(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return Size{}, nil
	}
	if err != nil {
		return Size{}, err
	}
	defer parent.Close()
	name := filepath.Base(path)
	var st unix.Stat_t
	switch err := unix.Fstatat(parent.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case errors.Is(err, unix.ENOENT):
		return Size{}, nil
	case err != nil:
		return Size{}, parent.fail("stat", name, err)
	}
	m := meter{linked: map[identity]bool{}}
	m.count(&st)
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		// A volume in memory is mounted here, so this step may lead to another file system.
		top, err := Open(path)
		if err != nil {
			return m.size, ignorePassing(err)
		}
		err = m.walk(ctx, top)
		return m.size, err
	}
	return m.size, nil
}

func ignorePassing(err error) error {
	if passing(err) {
		return nil
	}
	return err
}

type identity struct{ device, inode uint64 }

type meter struct {
	size    Size
	linked  map[identity]bool
	pending int
}

// level is a directory on the way down: who it is, and what in it is still to be looked into.
type level struct {
	id   identity
	dirs []string
}

func (m *meter) count(st *unix.Stat_t) {
	if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		id := identity{uint64(st.Dev), st.Ino}
		if m.linked[id] {
			return
		}
		if len(m.linked) < maxLinked {
			m.linked[id] = true
		}
	}
	m.size.Add(Size{uint64(st.Blocks) * 512, 1})
}

// walk measures all below a directory, which it closes.
func (m *meter) walk(ctx context.Context, at *Dir) error {
	defer func() { at.Close() }()
	first, err := m.enter(ctx, at)
	if err != nil {
		return err
	}
	way := []level{first}
	for {
		now := &way[len(way)-1]
		if len(now.dirs) > 0 {
			name := now.dirs[len(now.dirs)-1]
			now.dirs = now.dirs[:len(now.dirs)-1]
			m.pending--
			next, err := at.Open(name)
			if err != nil {
				if passing(err) || errors.Is(err, unix.EXDEV) {
					continue
				}
				return err
			}
			at.Close()
			at = next
			entered, err := m.enter(ctx, at)
			if err != nil {
				return err
			}
			way = append(way, entered)
			continue
		}
		if len(way) == 1 {
			return nil
		}
		way = way[:len(way)-1]
		up, err := at.up()
		if err != nil {
			return err
		}
		at.Close()
		at = up
		if id, err := at.identity(); err != nil || id != way[len(way)-1].id {
			return at.fail("measure", "", errors.Join(ErrChanged, err))
		}
	}
}

// enter counts what is in a directory.
func (m *meter) enter(ctx context.Context, d *Dir) (level, error) {
	id, err := d.identity()
	l := level{id: id}
	for err == nil {
		var names []string
		if names, err = d.f.Readdirnames(batch); errors.Is(err, io.EOF) || passing(err) {
			return l, nil
		}
		if ctx.Err() != nil {
			return l, d.fail("measure", "", ctx.Err())
		}
		for _, name := range names {
			st, err := d.Stat(name)
			if err != nil {
				continue // removed a moment ago
			}
			m.count(&st)
			if st.Mode&unix.S_IFMT != unix.S_IFDIR || uint64(st.Dev) != id.device {
				continue
			}
			if m.pending++; m.pending > maxPending {
				return l, d.fail("measure", "", fmt.Errorf("more than %d directories at once", maxPending))
			}
			l.dirs = append(l.dirs, name)
		}
	}
	return l, err
}

func (d *Dir) identity() (identity, error) {
	var st unix.Stat_t
	err := unix.Fstat(d.fd(), &st)
	return identity{uint64(st.Dev), st.Ino}, err
}

// up opens the parent, wherever this directory is by now.
func (d *Dir) up() (*Dir, error) {
	fd, err := unix.Openat(d.fd(), "..", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, d.fail("measure", "..", err)
	}
	return &Dir{os.NewFile(uintptr(fd), filepath.Dir(d.f.Name()))}, nil
}
