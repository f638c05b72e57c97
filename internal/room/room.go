// Package room measures how much of a disk is left, and says how much of that is etcd's.
package room

import (
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	// lowSize and lowShare of a disk are when it is told that it fills, shortSize and shortShare when etcd takes no more
	// writes while it still can; whichever is less.
	lowSize    = 1 << 30
	lowShare   = 10
	shortSize  = 256 << 20
	shortShare = 20
)

// Space is what a file system has for root, in bytes. The zero value is one that tells no size: nothing is low there.
type Space struct{ Free, Size int64 }

// Of measures the file system that a path is on.
func Of(path string) (Space, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return Space{}, fmt.Errorf("cannot read the size of the disk of %s: %w", path, err)
	}
	return Space{int64(s.Bavail) * s.Bsize, int64(s.Blocks) * s.Bsize}, nil
}

// Low is the free space in bytes below which it is told that the disk fills.
func (s Space) Low() int64 { return min(lowSize, s.Size/lowShare) }

// Short is the free space in bytes below which etcd takes no more writes.
func (s Space) Short() int64 { return min(shortSize, s.Size/shortShare) }

// Kept is the free space in bytes that others than etcd leave, and that it waits for once the disk was short: half above
// Short, so that writes do not begin and end with every file.
func (s Space) Kept() int64 { return s.Short() + s.Short()/2 }

func (s Space) String() string { return fmt.Sprintf("%d of %d MiB are left", s.Free>>20, s.Size>>20) }
