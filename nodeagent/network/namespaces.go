// Package network gives a pod its namespaces, its addresses and its way to pods of other nodes.
package network

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/pkg/sys"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lockstep/internal/thread"
	"lockstep/nodeagent/userns"
)

// Namespaces says which namespaces a pod has of its own.
type Namespaces struct {
	Net, IPC, UTS bool
	// Hostname is set in the UTS namespace; empty keeps the host's.
	Hostname string
	// FirstID is the host's ID of user and group 0 in a user namespace of the pod's own, which has userns.Length of them and
	// the other namespaces; 0: the pod has the host's users.
	FirstID uint32
}

// Names of the files that pin namespaces, as in /proc/<pid>/ns.
const (
	netFile  = "net"
	ipcFile  = "ipc"
	utsFile  = "uts"
	userFile = "user"
)

// Pin makes the namespaces and pins them as files in dir, where they stay
// without any process until Unpin. The loopback link of a new network is up.
// Namespaces that are pinned already are kept.
func Pin(dir string, n Namespaces) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot make namespaces in %s: %w", dir, err)
	}
	if Pinned(dir, n) {
		return nil
	}
	make := pin
	if n.FirstID != 0 {
		// Namespaces belong to the user namespace in which they were made: what is there of others is of no use.
		if err := errors.Join(Unpin(dir), os.MkdirAll(dir, 0o700)); err != nil {
			return err
		}
		make = pinUsers
	}
	flags, files := n.missing(dir)
	if err := thread.Own(func() error { return make(dir, flags, files, n) }); err != nil {
		return errors.Join(fmt.Errorf("cannot make namespaces in %s: %w", dir, err), Unpin(dir))
	}
	return nil
}

// missing are the namespaces that n wants and that are not pinned in dir, as flags of unshare and as names; a user namespace is
// not among them.
func (n Namespaces) missing(dir string) (flags int, files []string) {
	for _, ns := range []struct {
		want bool
		flag int
		name string
	}{{n.Net, unix.CLONE_NEWNET, netFile}, {n.IPC, unix.CLONE_NEWIPC, ipcFile}, {n.UTS, unix.CLONE_NEWUTS, utsFile}} {
		if ns.want && !pinned(filepath.Join(dir, ns.name)) {
			flags |= ns.flag
			files = append(files, ns.name)
		}
	}
	return flags, files
}

func pin(dir string, flags int, files []string, n Namespaces) error {
	if err := unix.Unshare(flags); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := settle(flags, n); err != nil {
		return err
	}
	return bind(dir, files, fmt.Sprintf("/proc/self/task/%d/ns", unix.Gettid()))
}

// pinUsers makes a user namespace, and in it the others, by a process that never runs: a thread of a program cannot leave the
// user namespace of the rest.
func pinUsers(dir string, flags int, files []string, n Namespaces) error {
	ids := fmt.Sprintf("0:%d:%d", n.FirstID, userns.Length)
	err := sys.UnshareAfterEnterUserns(ids, ids, uintptr(flags), func(pid int) error {
		return bind(dir, append(files, userFile), fmt.Sprintf("/proc/%d/ns", pid))
	})
	if err != nil {
		return fmt.Errorf("make user namespace: %w", err)
	}
	if err := join(dir); err != nil {
		return err
	}
	return settle(flags, n)
}

// settle makes new namespaces, which are the thread's, ready for a pod.
func settle(flags int, n Namespaces) error {
	if flags&unix.CLONE_NEWUTS != 0 && n.Hostname != "" {
		if err := unix.Sethostname([]byte(n.Hostname)); err != nil {
			return fmt.Errorf("set host name %q: %w", n.Hostname, err)
		}
	}
	if flags&unix.CLONE_NEWNET != 0 {
		if err := loopbackUp(); err != nil {
			return err
		}
		// Ports below 1024 need no privilege inside a pod, as with other
		// Kubernetes runtimes: they are the pod's own.
		if err := writeSysctl("net.ipv4.ip_unprivileged_port_start", "0"); err != nil {
			return err
		}
	}
	return nil
}

// bind pins namespaces of a process or thread, those in the folder from, as files of the same names.
func bind(dir string, files []string, from string) error {
	for _, name := range files {
		target := filepath.Join(dir, name)
		f, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o600)
		if err != nil {
			return err
		}
		f.Close()
		source := filepath.Join(from, name)
		if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", target, err)
		}
	}
	return nil
}

func loopbackUp() error {
	h, err := netlink.NewHandle()
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err == nil {
		err = h.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

// Tune writes sysctls, by their names with dots, in the namespaces that are pinned in dir. Whoever calls it has made sure that
// they are of such a namespace.
func Tune(dir string, sysctls map[string]string) error {
	if len(sysctls) == 0 {
		return nil
	}
	return thread.Own(func() error {
		if err := join(dir); err != nil {
			return err
		}
		if err := ownerOf(filepath.Join(dir, userFile)); err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(sysctls)) {
			if err := writeSysctl(name, sysctls[name]); err != nil {
				return fmt.Errorf("cannot %w", err)
			}
		}
		return nil
	})
}

// join has the thread join the namespaces that are pinned in dir, but the user namespace: that would be the whole program's.
func join(dir string) error {
	for name, kind := range map[string]int{netFile: unix.CLONE_NEWNET, ipcFile: unix.CLONE_NEWIPC, utsFile: unix.CLONE_NEWUTS} {
		if err := enter(filepath.Join(dir, name), kind); err != nil {
			return fmt.Errorf("cannot enter namespace %s: %w", name, err)
		}
	}
	return nil
}

// ownerOf makes the thread the owner of a user namespace that is pinned: the sysctls of IPC namespaces in it can be written by
// nobody else. Without one it does nothing.
func ownerOf(file string) error {
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	uid, err := unix.IoctlGetUint32(int(f.Fd()), unix.NS_GET_OWNER_UID)
	if err != nil {
		return fmt.Errorf("cannot read owner of %s: %w", file, err)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
		return fmt.Errorf("cannot become user %d: %w", uid, errno)
	}
	return nil
}

// enter joins a namespace that is pinned; one that is not is the host's.
func enter(file string, kind int) error {
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Setns(int(f.Fd()), kind)
}

// writeSysctl takes a name with dots; what is a dot within a part of it, as in the name of a link, is a slash there.
func writeSysctl(name, value string) error {
	path := strings.NewReplacer(".", "/", "/", ".").Replace(name)
	if filepath.Clean(path) != path || !filepath.IsLocal(path) { // it would lead elsewhere
		return fmt.Errorf("set sysctl %s: that is no name", name)
	}
	p := filepath.Join("/proc/sys", path)
	if err := os.WriteFile(p, []byte(value), 0o644); err != nil {
		return fmt.Errorf("set sysctl %s: %w", name, err)
	}
	return nil
}

// Pinned says whether every namespace that n wants is pinned in dir.
func Pinned(dir string, n Namespaces) bool {
	return (!n.Net || pinned(filepath.Join(dir, netFile))) &&
		(!n.IPC || pinned(filepath.Join(dir, ipcFile))) &&
		(!n.UTS || pinned(filepath.Join(dir, utsFile))) &&
		(n.FirstID == 0 || pinned(filepath.Join(dir, userFile)))
}

func pinned(file string) bool {
	var s unix.Statfs_t
	return unix.Statfs(file, &s) == nil && s.Type == unix.NSFS_MAGIC
}

// Unpin lets go of the namespaces in dir and removes it; they end with the
// last process in them. Absent ones are no error.
func Unpin(dir string) error {
	var errs []error
	for _, name := range []string{netFile, ipcFile, utsFile, userFile} {
		file := filepath.Join(dir, name)
		for pinned(file) {
			if err := unix.Unmount(file, unix.MNT_DETACH); err != nil {
				errs = append(errs, fmt.Errorf("cannot unmount %s: %w", file, err))
				break
			}
		}
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// NetPath, IPCPath, UTSPath and UserPath are where Pin pins the namespaces of dir.
func NetPath(dir string) string  { return filepath.Join(dir, netFile) }
func IPCPath(dir string) string  { return filepath.Join(dir, ipcFile) }
func UTSPath(dir string) string  { return filepath.Join(dir, utsFile) }
func UserPath(dir string) string { return filepath.Join(dir, userFile) }
