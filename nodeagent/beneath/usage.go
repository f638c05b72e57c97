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
	// maxOpen bounds the directories on the way down that are held open. What a pod moves about less deep than that is
	// found again whatever it is called.
	maxOpen = 16
	// maxLooks bounds how often a directory is read again for others in it that had another name when they were to be
	// looked into, and all such looks and ways back for directories deeper than maxOpen: a program that renames does not
	// do it all the time, and one that does makes a measure no more than some times as long.
	maxLooks, maxAllLooks = 4, 1 << 10
)

// ErrChanged says that directories were moved while they were measured, again and again, so that some were not.
var ErrChanged = errors.New("something in it was moved meanwhile")

// Usage measures a file, or a directory with all below it on the same file system; one that is absent takes nothing. A
// pod can write no part of the path. With ErrChanged, what is returned is everything but what was moved, and what lies in
// it; with another error, what was counted until then.
//
// 17 directories are open at a time, however deep they are nested: deeper ones are left by the way up, which is checked
// against the way down.
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
	visit   func(in *Dir, name string) error // what else is done with each; nil: nothing
	pending int
	looks   int  // that were needed since something had changed
	changed bool // and was not found again
}

// level is a directory on the way down.
type level struct {
	name string // in the level above
	id   identity
	dir  *Dir    // nil of one that is deep and has others on the way below it
	subs []child // the directories in it
	next int     // of them that is to be looked into
	lost bool    // some of them were not there when they were
	left int     // times that they are looked for
}

type child struct {
	name string
	id   identity
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
func (m *meter) walk(ctx context.Context, top *Dir) error {
	way := []*level{{dir: top, left: maxLooks}}
	defer func() {
		for _, l := range way {
			l.close()
		}
	}()
	if err := m.enter(ctx, way[0]); err != nil {
		return err
	}
	for {
		now := way[len(way)-1]
		switch {
		case now.next < len(now.subs):
			below, err := m.descend(ctx, now)
			if err != nil {
				return err
			}
			if below != nil {
				way = append(way, below)
				if len(way) > maxOpen+1 {
					now.close()
				}
			}
		case now.lost && now.left > 0 && m.looks < maxAllLooks:
			m.looks++
			now.left--
			if err := m.lookAgain(ctx, now); err != nil {
				return err
			}
		default:
			m.changed = m.changed || now.lost
			m.pending -= len(now.subs)
			if len(way) == 1 {
				if m.changed {
					return now.dir.fail("measure", "", ErrChanged)
				}
				return nil
			}
			var err error
			if way, err = m.ascend(ctx, way); err != nil {
				return err
			}
		}
	}
}

// descend looks into the next directory of a level; nil if it is not there any more.
func (m *meter) descend(ctx context.Context, now *level) (*level, error) {
	sub := &now.subs[now.next]
	now.next++
	dir, err := now.dir.Open(sub.name)
	switch {
	case passing(err):
		now.lost, sub.id = true, identity{}
		return nil, nil
	case errors.Is(err, unix.EXDEV):
		return nil, nil
	case err != nil:
		return nil, err
	}
	below := &level{name: sub.name, dir: dir, left: maxLooks}
	if err := m.enter(ctx, below); err != nil {
		below.close()
		return nil, err
	}
	sub.id = below.id // another one may have its name
	return below, nil
}

// ascend leaves the last level for the one above, or for the deepest one above that can be found again.
func (m *meter) ascend(ctx context.Context, way []*level) ([]*level, error) {
	last := way[len(way)-1]
	way = way[:len(way)-1]
	defer last.close()
	above := way[len(way)-1]
	if above.dir != nil {
		return way, nil
	}
	if up, err := last.dir.up(); err == nil {
		if id, err := up.identity(); err == nil && id == above.id {
			above.dir = up
			return way, nil
		}
		up.Close()
	}
	held := len(way) - 1
	for way[held].dir == nil {
		held--
	}
	for at := held + 1; at < len(way) && m.looks < maxAllLooks; at++ { // down again, one at a time
		if ctx.Err() != nil {
			return way, way[held].dir.fail("measure", "", ctx.Err())
		}
		dir, err := way[at-1].dir.Open(way[at].name)
		if err != nil {
			break
		}
		if id, err := dir.identity(); err != nil || id != way[at].id {
			dir.Close()
			break
		}
		way[at].dir = dir
		if at-1 > held {
			way[at-1].close()
		}
	}
	m.looks++
	for way[len(way)-1].dir == nil { // what was still to be looked into there is lost
		gone := way[len(way)-1]
		way = way[:len(way)-1]
		m.pending -= len(gone.subs)
		m.changed = m.changed || gone.next < len(gone.subs) || gone.lost
	}
	return way, nil
}

// enter counts what is in a directory.
func (m *meter) enter(ctx context.Context, l *level) error {
	var err error
	if l.id, err = l.dir.identity(); err != nil {
		return err
	}
	var visited error
	err = m.read(ctx, l, func(name string, st *unix.Stat_t) bool {
		m.count(st)
		if m.visit != nil && visited == nil {
			visited = m.visit(l.dir, name)
		}
		return visited == nil
	})
	return errors.Join(err, visited)
}

// lookAgain looks for directories that were not looked into. Their own size has been counted, by the name they had.
func (m *meter) lookAgain(ctx context.Context, l *level) error {
	if _, err := l.dir.f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	known := map[identity]bool{}
	for _, sub := range l.subs {
		known[sub.id] = true
	}
	l.lost = false
	return m.read(ctx, l, func(_ string, st *unix.Stat_t) bool { return !known[identity{uint64(st.Dev), st.Ino}] })
}

// read notes the directories in a directory that are wanted.
func (m *meter) read(ctx context.Context, l *level, wanted func(name string, st *unix.Stat_t) bool) error {
	for {
		names, err := l.dir.f.Readdirnames(batch)
		if errors.Is(err, io.EOF) || passing(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return l.dir.fail("measure", "", ctx.Err())
		}
		for _, name := range names {
			st, err := l.dir.Stat(name)
			if err != nil {
				l.lost = true // removed a moment ago, or renamed
				continue
			}
			if !wanted(name, &st) || st.Mode&unix.S_IFMT != unix.S_IFDIR || uint64(st.Dev) != l.id.device {
				continue
			}
			if m.pending++; m.pending > maxPending {
				return l.dir.fail("measure", "", fmt.Errorf("more than %d directories at once", maxPending))
			}
			l.subs = append(l.subs, child{name, identity{uint64(st.Dev), st.Ino}})
		}
	}
}

func (l *level) close() {
	if l.dir != nil {
		l.dir.Close()
		l.dir = nil
	}
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
