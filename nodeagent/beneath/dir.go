// Package beneath works in directories that pods can write to.
//
// Whatever is opened or changed is reached from an open directory, by a descriptor: a link is never followed, a path
// never resolved twice, and nothing that a pod made, such as a FIFO, is waited for. So a pod that swaps what is there
// while it is worked on harms its own files at most.
package beneath

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Dir is a directory that is held open. Names are of entries in it; paths are relative, clean, and stay below it.
// Errors are *fs.PathError.
type Dir struct{ f *os.File }

// Attr is what a new file or directory gets, whatever the umask is.
type Attr struct {
	// Mode has the permission bits and setuid, setgid and sticky, as chmod(2) takes them.
	Mode uint32
	// Group owns it; nil leaves the agent's.
	Group *int64
}

// within is how paths are resolved: below the directory, through no link and onto no other file system.
const within = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV

// Open opens a directory by a path of which a pod can write no part. A link in its last place is refused.
func Open(path string) (*Dir, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return &Dir{os.NewFile(uintptr(fd), path)}, nil
}

// Close lets the directory go.
func (d *Dir) Close() { d.f.Close() }

func (d *Dir) fd() int { return int(d.f.Fd()) }

func (d *Dir) fail(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: filepath.Join(d.f.Name(), name), Err: err}
}

// Open opens a directory below this one.
func (d *Dir) Open(path string) (*Dir, error) {
	fd, err := d.open(path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, d.fail("open", path, err)
	}
	name := filepath.Join(d.f.Name(), path)
	if len(name) > unix.PathMax {
		name = d.f.Name() // it is for messages only, and deep directories would take memory by the square of their depth
	}
	return &Dir{os.NewFile(uintptr(fd), name)}, nil
}

func (d *Dir) open(path string, flags uint64) (int, error) {
	how := unix.OpenHow{Flags: flags | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: within}
	for {
		fd, err := unix.Openat2(d.fd(), path, &how)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// Make makes a directory below this one, with those on the way to it, and opens it. Those that exist stay as they are.
func (d *Dir) Make(path string, attr Attr) (*Dir, error) {
	if parent := filepath.Dir(path); parent != "." {
		between, err := d.Make(parent, attr)
		if err != nil {
			return nil, err
		}
		defer between.Close()
		return between.Make(filepath.Base(path), attr)
	}
	err := unix.Mkdirat(d.fd(), path, 0o700)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, d.fail("mkdir", path, err)
	}
	made, openErr := d.Open(path)
	if openErr != nil {
		return nil, openErr
	}
	if err == nil {
		if err := made.Set(attr); err != nil {
			made.Close()
			return nil, err
		}
	}
	return made, nil
}

// Set changes the directory's own mode and group.
func (d *Dir) Set(attr Attr) error { return d.fail("chmod", "", set(d.fd(), attr)) }

// Attr returns the directory's own mode and group.
func (d *Dir) Attr() (Attr, error) {
	var st unix.Stat_t
	err := unix.Fstat(d.fd(), &st)
	group := int64(st.Gid)
	return Attr{Mode: st.Mode &^ unix.S_IFMT, Group: &group}, d.fail("stat", "", err)
}

func set(fd int, attr Attr) error {
	if attr.Group != nil {
		if err := unix.Fchown(fd, -1, int(*attr.Group)); err != nil {
			return err
		}
	}
	return unix.Fchmod(fd, attr.Mode) // after the owner, whose change takes setgid away
}

// Create makes a file that is not there yet. After an error it is not there.
func (d *Dir) Create(name string, data []byte, attr Attr) error {
	fd, err := d.open(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return d.fail("create", name, err)
	}
	f := os.NewFile(uintptr(fd), filepath.Join(d.f.Name(), name))
	_, err = f.Write(data)
	if err == nil {
		err = d.fail("chmod", name, set(fd, attr))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, d.Unlink(name))
	}
	return nil
}

// ErrNotRegular says that what was to be read is no plain file.
var ErrNotRegular = errors.New("not a regular file")

// File opens a regular file below this directory for reading; anything else is ErrNotRegular or an error of opening.
func (d *Dir) File(path string) (*os.File, error) {
	fd, err := d.open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return nil, d.fail("open", path, err)
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = ErrNotRegular
	}
	if err != nil {
		unix.Close(fd)
		return nil, d.fail("open", path, err)
	}
	return os.NewFile(uintptr(fd), filepath.Join(d.f.Name(), path)), nil
}

// Stat describes an entry itself, not what a link leads to.
func (d *Dir) Stat(name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	err := unix.Fstatat(d.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, d.fail("stat", name, err)
}

// Names returns at most the given number of entries' names; more says that there are more.
func (d *Dir) Names(most int) (names []string, more bool, err error) {
	if _, err := d.f.Seek(0, io.SeekStart); err != nil {
		return nil, false, err
	}
	names, err = d.f.Readdirnames(most + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, false, err
	}
	if len(names) > most {
		return names[:most], true, nil
	}
	return names, false, nil
}

// Readlink returns where a link leads.
func (d *Dir) Readlink(name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(d.fd(), name, buf)
	if err != nil {
		return "", d.fail("readlink", name, err)
	}
	return string(buf[:n]), nil
}

// Symlink makes a link that is not there yet.
func (d *Dir) Symlink(target, name string) error {
	return d.fail("symlink", name, unix.Symlinkat(target, d.fd(), name))
}

// Rename gives an entry another name, in the place of what has it.
func (d *Dir) Rename(from, to string) error {
	return d.fail("rename", to, unix.Renameat(d.fd(), from, d.fd(), to))
}

// Sync returns when what was made, renamed and removed in the directory outlives a loss of power.
func (d *Dir) Sync() error { return d.fail("sync", "", unix.Fsync(d.fd())) }

// Unlink removes an entry that is no directory; an absent one is no error.
func (d *Dir) Unlink(name string) error {
	if err := unix.Unlinkat(d.fd(), name, 0); !errors.Is(err, unix.ENOENT) {
		return d.fail("unlink", name, err)
	}
	return nil
}

// Dial connects to a unix socket in this directory.
func (d *Dir) Dial(ctx context.Context, name string) (net.Conn, error) {
	fd, err := d.open(name, unix.O_PATH)
	if err != nil {
		return nil, d.fail("connect", name, err)
	}
	defer unix.Close(fd)
	conn, err := new(net.Dialer).DialContext(ctx, "unix", "/proc/self/fd/"+strconv.Itoa(fd))
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		return nil, d.fail("connect", name, op.Err)
	}
	return conn, err
}
