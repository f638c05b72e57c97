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

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lockstep/internal/thread"
)

// Namespaces says which namespaces a pod has of its own.
type Namespaces struct {
	Net, IPC, UTS bool
	// Hostname is set in the UTS namespace; empty keeps the host's.
	Hostname string
}

// Names of the files that pin namespaces, as in /proc/<pid>/ns.
const (
	netFile = "net"
	ipcFile = "ipc"
	utsFile = "uts"
)

// Pin makes the namespaces and pins them as files in dir, where they stay
// without any process until Unpin. The loopback link of a new network is up.
// Namespaces that are pinned already are kept.
func Pin(dir string, n Namespaces) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot make namespaces in %s: %w", dir, err)
	}
	flags, files := 0, []string{}
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
	if flags == 0 {
		return nil
	}
	if err := thread.Own(func() error { return pin(dir, flags, files, n) }); err != nil {
		return errors.Join(fmt.Errorf("cannot make namespaces in %s: %w", dir, err), Unpin(dir))
	}
	return nil
}

func pin(dir string, flags int, files []string, n Namespaces) error {
	if err := unix.Unshare(flags); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
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
	for _, name := range files {
		target := filepath.Join(dir, name)
		f, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o600)
		if err != nil {
			return err
		}
		f.Close()
		source := fmt.Sprintf("/proc/self/task/%d/ns/%s", unix.Gettid(), name)
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
		for name, kind := range map[string]int{netFile: unix.CLONE_NEWNET, ipcFile: unix.CLONE_NEWIPC, utsFile: unix.CLONE_NEWUTS} {
			if err := enter(filepath.Join(dir, name), kind); err != nil {
				return fmt.Errorf("cannot enter namespace %s: %w", name, err)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(sysctls)) {
			if err := writeSysctl(name, sysctls[name]); err != nil {
				return fmt.Errorf("cannot %w", err)
			}
		}
		return nil
	})
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
	p := filepath.Join("/proc/sys", strings.NewReplacer(".", "/", "/", ".").Replace(name))
	if err := os.WriteFile(p, []byte(value), 0o644); err != nil {
		return fmt.Errorf("set sysctl %s: %w", name, err)
	}
	return nil
}

// Pinned says whether every namespace that n wants is pinned in dir.
func Pinned(dir string, n Namespaces) bool {
	return (!n.Net || pinned(filepath.Join(dir, netFile))) &&
		(!n.IPC || pinned(filepath.Join(dir, ipcFile))) &&
		(!n.UTS || pinned(filepath.Join(dir, utsFile)))
}

func pinned(file string) bool {
	var s unix.Statfs_t
	return unix.Statfs(file, &s) == nil && s.Type == unix.NSFS_MAGIC
}

// Unpin lets go of the namespaces in dir and removes it; they end with the
// last process in them. Absent ones are no error.
func Unpin(dir string) error {
	var errs []error
	for _, name := range []string{netFile, ipcFile, utsFile} {
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

// NetPath, IPCPath and UTSPath are where Pin pins the namespaces of dir.
func NetPath(dir string) string { return filepath.Join(dir, netFile) }
func IPCPath(dir string) string { return filepath.Join(dir, ipcFile) }
func UTSPath(dir string) string { return filepath.Join(dir, utsFile) }
