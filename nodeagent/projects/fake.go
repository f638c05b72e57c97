package projects

import (
	"errors"
	"sync"

	"golang.org/x/sys/unix"
)

// Fake has quotas for all files, whatever file system they are on; it counts nothing by itself. The zero value has none that are enforced.
// It is safe for concurrent use.
type Fake struct {
	mu     sync.Mutex
	has    bool
	broken bool
	files  map[[2]uint64]uint32
	usage  map[uint32]Usage
}

// Have says whether it has quotas that are enforced.
func (f *Fake) Have(has bool) { f.mu.Lock(); defer f.mu.Unlock(); f.has = has }

// Break has every change fail, or not any more.
func (f *Fake) Break(broken bool) { f.mu.Lock(); defer f.mu.Unlock(); f.broken = broken }

// Count has a project take so much; its limit stays.
func (f *Fake) Count(project uint32, bytes, inodes uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.usage == nil {
		f.usage = map[uint32]Usage{}
	}
	f.usage[project] = Usage{Bytes: bytes, Inodes: inodes, Limit: f.usage[project].Limit}
}

// Enforced implements Quotas.
func (f *Fake) Enforced(int) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.has, nil
}

// Of implements Quotas.
func (f *Fake) Of(fd int) (uint32, error) {
	id, err := identity(fd)
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.files[id], err
}

// Give implements Quotas.
func (f *Fake) Give(fd int, project uint32) error {
	id, err := identity(fd)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		err = f.fail()
	}
	if err != nil {
		return err
	}
	if f.files == nil {
		f.files = map[[2]uint64]uint32{}
	}
	f.files[id] = project
	return nil
}

// Usage implements Quotas.
func (f *Fake) Usage(_ int, project uint32) (Usage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.usage[project], nil
}

// Limit implements Quotas.
func (f *Fake) Limit(_ int, project uint32, bytes uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fail(); err != nil {
		return err
	}
	if f.usage == nil {
		f.usage = map[uint32]Usage{}
	}
	u := f.usage[project]
	u.Limit = units(bytes) * limitUnit
	f.usage[project] = u
	return nil
}

func (f *Fake) fail() error {
	if f.broken {
		return errors.New("the file system is broken")
	}
	return nil
}

func identity(fd int) ([2]uint64, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return [2]uint64{uint64(st.Dev), st.Ino}, err
}
