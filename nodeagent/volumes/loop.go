package volumes

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// loopTries is how often a free loop device is asked for: between that and its use, others may take it.
	loopTries = 16
	// devicesDir is where a pod has a link for each file that is one of its devices. What it leads to is the file's loopFile, as text.
	devicesDir = "devices"
	// sysBlock is where the kernel lists block devices.
	sysBlock = "/sys/block"
)

// loops attaches files to loop devices, one to a file. Which ones are this manager's is written in the devices themselves, and who uses
// them in the pods' directories, so that both outlive the agent.
type loops struct {
	dir string // the pods'
	mu  sync.Mutex
}

// loopFile is which file a loop device shows.
type loopFile struct{ device, inode uint64 }

func (f loopFile) String() string { return fmt.Sprintf("%d:%d", f.device, f.inode) }

// loop is a loop device that shows a file.
type loop struct {
	path string
	of   loopFile
	mark string // who attached it, and where the file was; of another program, whatever it is
	part bool   // it shows a part of the file alone
	ro   bool
	ends bool // it goes as soon as nobody has it open
}

// owner begins the marks of all that this manager attaches.
func (l *loops) owner() string { return fmt.Sprintf("lockstep-%.8x-", sha256.Sum256([]byte(l.dir))) }

// mark names a path of a file in 58 of the 63 bytes that there are.
func (l *loops) mark(path string) string {
	return l.owner() + fmt.Sprintf("%.16x", sha256.Sum256([]byte(path)))
}

// attach returns the path of the loop device of a file, which is attached unless it is, and notes that a volume of the pod uses it. A
// pod that has had one since the machine started keeps that, whatever is at the path by now.
func (l *loops) attach(pod types.UID, volume, path string, readOnly bool) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all, err := attachedLoops()
	if err != nil {
		return "", err
	}
	before, _ := os.Readlink(l.link(pod, volume))
	for _, o := range all {
		if o.of.String() == before && o.mark == l.mark(path) {
			return o.path, o.stay()
		}
	}
	f, err := openBacking(path, readOnly)
	if err != nil {
		return "", err
	}
	defer f.Close()
	of, err := fileOf(f)
	if err != nil {
		return "", err
	}
	if err := l.note(pod, volume, of); err != nil {
		return "", err
	}
	for _, o := range all {
		switch {
		case o.of != of:
		case o.part:
			return "", fmt.Errorf("a part of %s is attached as %s", path, o.path)
		case o.ro && !readOnly:
			return "", fmt.Errorf("%s is attached as %s, which is read-only", path, o.path)
		case o.ends && !strings.HasPrefix(o.mark, l.owner()):
			return "", fmt.Errorf("%s is attached as %s by another program", path, o.path)
		default:
			return o.path, o.stay()
		}
	}
	return attachLoop(f, l.mark(path))
}

// openBacking opens a regular file, and waits for nothing that is none.
func openBacking(path string, readOnly bool) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if readOnly && errors.Is(err, unix.EROFS) {
		f, err = os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errNoDevice(path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func errNoDevice(path string) error {
	return fmt.Errorf("path %q is neither a block device nor a file", path)
}

func fileOf(f *os.File) (loopFile, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return loopFile{}, &fs.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return loopFile{uint64(st.Dev), st.Ino}, nil
}

func (l *loops) link(pod types.UID, volume string) string {
	return filepath.Join(l.dir, string(pod), devicesDir, volume)
}

// note has a pod use a file, in the place of what it used before.
func (l *loops) note(pod types.UID, volume string, of loopFile) error {
	link := l.link(pod, volume)
	if err := os.MkdirAll(filepath.Dir(link), 0o750); err != nil {
		return err
	}
	unready := filepath.Join(filepath.Dir(link), ".new-"+volume)
	if err := os.Remove(unready); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(of.String(), unready); err != nil {
		return err
	}
	return os.Rename(unready, link)
}

// attachLoop attaches a file to a free loop device and marks that. The kernel does both at once (LOOP_CONFIGURE, Linux 5.8): there is
// never one that is nobody's.
func attachLoop(f *os.File, mark string) (string, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer control.Close()
	config := unix.LoopConfig{Fd: uint32(f.Fd())}
	copy(config.Info.File_name[:len(config.Info.File_name)-1], mark)
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil {
		return "", os.NewSyscallError("fcntl", err)
	}
	if flags&unix.O_ACCMODE == unix.O_RDONLY {
		config.Info.Flags = unix.LO_FLAGS_READ_ONLY
	}
	for range loopTries {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return "", fmt.Errorf("no loop device is free: %w", err)
		}
		path := fmt.Sprintf("/dev/loop%d", n)
		err = configure(path, &config)
		if errors.Is(err, unix.EBUSY) {
			continue // others were faster
		}
		if err != nil {
			return "", fmt.Errorf("cannot attach %s to %s: %w", f.Name(), path, err)
		}
		return path, nil
	}
	return "", fmt.Errorf("cannot attach %s: others have taken %d free loop devices", f.Name(), loopTries)
}

func configure(path string, config *unix.LoopConfig) error {
	device, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer device.Close()
	return unix.IoctlLoopConfigure(int(device.Fd()), config)
}

// attachedLoops lists the loop devices of the machine that show a file.
func attachedLoops() ([]loop, error) {
	entries, err := os.ReadDir(sysBlock)
	if err != nil {
		return nil, err
	}
	var all []loop
	for _, e := range entries {
		number, is := strings.CutPrefix(e.Name(), "loop")
		if _, err := strconv.ParseUint(number, 10, 32); !is || err != nil {
			continue
		}
		if _, err := os.Lstat(filepath.Join(sysBlock, e.Name(), "loop")); err != nil {
			continue // nothing is attached
		}
		one, err := readLoop("/dev/" + e.Name())
		if errors.Is(err, unix.ENXIO) || errors.Is(err, fs.ErrNotExist) {
			continue // not any more
		}
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

func readLoop(path string) (loop, error) {
	device, err := os.Open(path)
	if err != nil {
		return loop{}, err
	}
	defer device.Close()
	info, err := unix.IoctlLoopGetStatus64(int(device.Fd()))
	if err != nil {
		return loop{}, fmt.Errorf("cannot read the state of %s: %w", path, err)
	}
	return loop{path: path, of: loopFile{info.Device, info.Inode}, mark: unix.ByteSliceToString(info.File_name[:]),
		part: info.Offset != 0 || info.Sizelimit != 0, ro: info.Flags&unix.LO_FLAGS_READ_ONLY != 0,
		ends: info.Flags&unix.LO_FLAGS_AUTOCLEAR != 0}, nil
}

// release detaches the loop devices of this manager that no pod uses. One that a process has open yet goes when that ends.
func (l *loops) release() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	all, err := attachedLoops()
	if err != nil {
		return fmt.Errorf("cannot list loop devices: %w", err)
	}
	var used map[string]bool
	var errs []error
	for _, o := range all {
		if !strings.HasPrefix(o.mark, l.owner()) {
			continue
		}
		if used == nil {
			if used, err = l.used(); err != nil {
				return fmt.Errorf("cannot list the pods' devices: %w", err)
			}
		}
		if !used[o.of.String()] {
			errs = append(errs, o.detach())
		}
	}
	return errors.Join(errs...)
}

// used are the files that pods use, as their links have them.
func (l *loops) used() (map[string]bool, error) {
	pods, err := os.ReadDir(l.dir)
	if err != nil {
		return nil, err
	}
	all := map[string]bool{}
	for _, pod := range pods {
		dir := filepath.Join(l.dir, pod.Name(), devicesDir)
		links, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			return nil, err
		}
		for _, link := range links {
			to, err := os.Readlink(filepath.Join(dir, link.Name()))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			all[to] = true
		}
	}
	return all, nil
}

// detach detaches the device, unless it shows another file by now.
func (o loop) detach() error {
	device, err := os.OpenFile(o.path, os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer device.Close()
	now, err := readLoop(o.path)
	if errors.Is(err, unix.ENXIO) || err == nil && (now.of != o.of || now.mark != o.mark) {
		return nil
	}
	if err == nil {
		err = unix.IoctlSetInt(int(device.Fd()), unix.LOOP_CLR_FD, 0)
	}
	if err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("cannot detach %s: %w", o.path, err)
	}
	return nil
}

// stay keeps a device that was to go with the last process that has it open.
func (o loop) stay() error {
	if !o.ends {
		return nil
	}
	device, err := os.OpenFile(o.path, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer device.Close()
	info, err := unix.IoctlLoopGetStatus64(int(device.Fd()))
	if err == nil {
		info.Flags &^= unix.LO_FLAGS_AUTOCLEAR
		err = unix.IoctlLoopSetStatus64(int(device.Fd()), info)
	}
	if err != nil {
		return fmt.Errorf("cannot keep %s: %w", o.path, err)
	}
	return nil
}

// resize gives the loop device of a file the size that the file has by now; a file that has none is left.
func (l *loops) resize(of loopFile) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	all, err := attachedLoops()
	if err != nil {
		return err
	}
	for _, o := range all {
		if o.of != of || !strings.HasPrefix(o.mark, l.owner()) {
			continue
		}
		device, err := os.OpenFile(o.path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		err = unix.IoctlSetInt(int(device.Fd()), unix.LOOP_SET_CAPACITY, 0)
		device.Close()
		if err != nil {
			return fmt.Errorf("cannot resize %s: %w", o.path, err)
		}
	}
	return nil
}

// attached says whether a loop device shows the file.
func attached(of loopFile) (bool, error) {
	all, err := attachedLoops()
	for _, o := range all {
		if o.of == of {
			return true, err
		}
	}
	return false, err
}
