// Package projects bounds what directories take of their file system, by its project quotas.
//
// A project is a number that files have; what is made in a directory of one has it, too. XFS and ext4 count what the files of each
// project take, and refuse what would be more than its limit, if they are mounted so (prjquota). The kernel's interfaces are
// quotactl(2) and FS_IOC_FSSETXATTR of ioctl_xfs_fsgetxattr(2).
package projects

import (
	"errors"
	"fmt"
	"math"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Usage is what a project's files take, and may take. A limit of zero is none.
type Usage struct{ Bytes, Inodes, Limit uint64 }

// Quotas are what file systems have. A file is told by a descriptor of it, or of any other of its file system.
type Quotas interface {
	// Enforced says whether the file system holds projects to their limits: false where it has no such quotas, or does not enforce them.
	Enforced(fd int) (bool, error)
	// Of is the project of a file; zero: none.
	Of(fd int) (uint32, error)
	// Give gives a file, or a directory with what will be made in it, to a project. What is in it already stays whose it is.
	Give(fd int, project uint32) error
	// Usage is that of a project, which is all zero if nobody has heard of it.
	Usage(fd int, project uint32) (Usage, error)
	// Limit sets the limit of a project in bytes, rounded up to KiB or to the file system's blocks; zero takes it away. Doing it
	// twice changes nothing.
	Limit(fd int, project uint32, bytes uint64) error
}

// Kernel has the quotas of the file systems of this machine, from Linux 5.14 on.
type Kernel struct{}

// From linux/quota.h, linux/dqblk_xfs.h and linux/fs.h, which golang.org/x/sys does not have.
const (
	projectQuota = 2
	getQuota     = 0x800007
	setQuota     = 0x800008
	getState     = 'X'<<8 + 8 // Q_XGETQSTATV
	stateVersion = 1
	// enforced is the flag that limits of projects are enforced, which says that they are counted, too.
	enforced = 1 << 5
	// limitUnit is what limits are counted in.
	limitUnit = 1 << 10
	limitSet  = 1 // QIF_BLIMITS

	getAttr        = 0x801c581f
	setAttr        = 0x401c5820
	projectInherit = 0x200
)

// state begins a struct fs_quota_statv.
type state struct {
	version, _ uint8
	flags      uint16
	_          [39]uint32
}

// block is a struct if_dqblk.
type block struct {
	hard, soft, space      uint64
	inodesHard, inodesSoft uint64
	inodes                 uint64
	blockGrace, inodeGrace uint64
	valid                  uint32
	_                      uint32
}

// attr is a struct fsxattr.
type attr struct {
	flags, extent, extents, project, copyExtent uint32
	_                                           [8]uint8
}

func quotactl(fd int, command uintptr, id uint32, at unsafe.Pointer) error {
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, uintptr(fd), command<<8|projectQuota, uintptr(id), uintptr(at), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func ioctl(fd int, command uintptr, at unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), command, uintptr(at)); errno != 0 {
		return errno
	}
	return nil
}

// Enforced implements Quotas.
func (Kernel) Enforced(fd int) (bool, error) {
	s := state{version: stateVersion}
	err := quotactl(fd, getState, 0, unsafe.Pointer(&s))
	for _, none := range []error{unix.ENOSYS, unix.ENOTSUP, unix.ESRCH, unix.ENODEV, unix.EINVAL, unix.ENOTTY, unix.EPERM} {
		if errors.Is(err, none) { // an older kernel, a file system without quotas, none turned on, or a filter of calls
			return false, nil
		}
	}
	if err != nil {
		return false, fmt.Errorf("cannot ask for project quotas: %w", err)
	}
	return s.flags&enforced != 0, nil
}

// Of implements Quotas.
func (Kernel) Of(fd int) (uint32, error) {
	var a attr
	if err := ioctl(fd, getAttr, unsafe.Pointer(&a)); err != nil {
		return 0, fmt.Errorf("cannot read the project of a file: %w", err)
	}
	return a.project, nil
}

// Give implements Quotas.
func (Kernel) Give(fd int, project uint32) error {
	var st unix.Stat_t
	var a attr
	err := unix.Fstat(fd, &st)
	if err == nil {
		err = ioctl(fd, getAttr, unsafe.Pointer(&a))
	}
	if err == nil {
		a.project = project
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			a.flags |= projectInherit
		}
		err = ioctl(fd, setAttr, unsafe.Pointer(&a))
	}
	if err != nil {
		return fmt.Errorf("cannot give a file to project %d: %w", project, err)
	}
	return nil
}

// Usage implements Quotas.
func (Kernel) Usage(fd int, project uint32) (Usage, error) {
	var b block
	err := quotactl(fd, getQuota, project, unsafe.Pointer(&b))
	if errors.Is(err, unix.ENOENT) {
		return Usage{}, nil
	}
	if err != nil {
		return Usage{}, fmt.Errorf("cannot read the quota of project %d: %w", project, err)
	}
	return Usage{Bytes: b.space, Inodes: b.inodes, Limit: min(b.hard, math.MaxUint64/limitUnit) * limitUnit}, nil
}

// Limit implements Quotas.
func (Kernel) Limit(fd int, project uint32, bytes uint64) error {
	b := block{hard: units(bytes), valid: limitSet}
	if err := quotactl(fd, setQuota, project, unsafe.Pointer(&b)); err != nil {
		return fmt.Errorf("cannot limit project %d: %w", project, err)
	}
	return nil
}

// LargestBlock is the largest that file systems have, in bytes.
const LargestBlock = 64 << 10

// units is how many KiB a limit of so many bytes is.
func units(bytes uint64) uint64 { return bytes/limitUnit + min(1, bytes%limitUnit) }
