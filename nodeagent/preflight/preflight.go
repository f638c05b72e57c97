// Package preflight finds what a machine lacks to be a node, before anything of a node is started.
package preflight

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/cgroups/v3"
	"github.com/containernetworking/cni/libcni"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"lockstep/nodeagent/network"
	"lockstep/proxy"
)

// Options say what a node on this machine is to be.
type Options struct {
	// Dirs are written to: data, sockets, mounts. They need not exist.
	Dirs []string
	// DataDir is where LeastDisk is needed; empty: the disk's size is not looked at.
	DataDir string
	// Managed says that containerd will be the agent's own.
	Managed bool
	// Containerd is the socket at which containerd must answer; empty: it is not asked.
	Containerd string
	// Snapshotter is overlayfs if empty.
	Snapshotter string
	// CNIBinDirs have the plugins; CNIConfDir, if not empty, the user's own network.
	CNIBinDirs []string
	CNIConfDir string
	// Ports are to be free.
	Ports []Port
}

// Port is an address that will be listened at.
type Port struct {
	Address netip.AddrPort
	// For says what it is for, and which flag moves it.
	For string
	// Datagrams says that UDP is needed as well as TCP.
	Datagrams bool
}

// Lack is something that is missing.
type Lack struct {
	What  string // "iptables"
	Cause string // what was seen
	Get   string // how to get it, in a few words
	// Package is the Debian package that has it; empty where none does.
	Package string
}

// LeastDisk is what a node needs to begin with: etcd's first files are 128 MiB, and as much again is for its reserve.
const LeastDisk = 256 << 20

// Find looks at everything and returns all that is missing, in a fixed order; it changes nothing that stays. Who is not
// root cannot look at all of it.
func Find(ctx context.Context, o Options) []Lack {
	root := os.Geteuid() == 0
	checks := []func() []Lack{
		privileges,
		func() []Lack { return iptables(ctx, root) },
		func() []Lack { return plugins(o) },
		func() []Lack { return containerd(ctx, o) },
		func() []Lack { return modules(ctx, o, root) },
		controllers,
	}
	if root {
		checks = append(checks, func() []Lack { return ports(ctx, o) }, func() []Lack { return disk(o) })
	}
	found := make([][]Lack, len(checks))
	var group errgroup.Group
	for i, check := range checks {
		group.Go(func() error {
			found[i] = check()
			return nil
		})
	}
	_ = group.Wait() // no check returns an error
	return slices.Concat(found...)
}

// Error tells of all lacks in one message; nil where there are none.
func Error(lacks []Lack) error {
	if len(lacks) == 0 {
		return nil
	}
	var b strings.Builder
	things := "things are"
	if len(lacks) == 1 {
		things = "thing is"
	}
	fmt.Fprintf(&b, "cannot run a node on this machine: %d %s missing", len(lacks), things)
	var packages []string
	for _, l := range lacks {
		cause := strings.ReplaceAll(l.Cause, "\n", "; ") // as of joined errors
		fmt.Fprintf(&b, "\n  %s: %s\n      %s", l.What, cause, l.Get)
		if l.Package != "" && !slices.Contains(packages, l.Package) {
			packages = append(packages, l.Package)
		}
	}
	if len(packages) > 0 {
		fmt.Fprintf(&b, "\non Debian and Ubuntu: apt-get install %s", strings.Join(packages, " "))
	}
	return errors.New(b.String())
}

func privileges() []Lack {
	if os.Geteuid() != 0 {
		return []Lack{{
			What:  "root",
			Cause: fmt.Sprintf("this is user %d, and only root can make containers and rules", os.Geteuid()),
			Get:   "run it with sudo, or as a system service",
		}}
	}
	return nil
}

func iptables(ctx context.Context, root bool) []Lack {
	if _, _, err := proxy.Backend(ctx); err != nil {
		return []Lack{{
			What:    "iptables",
			Cause:   err.Error(),
			Get:     "install iptables, 1.8 or newer, where root's PATH finds it",
			Package: "iptables",
		}}
	}
	if !root {
		return nil
	}
	if err := proxy.Try(ctx); err != nil {
		return []Lack{{What: "service rules", Cause: err.Error(),
			Get: "the kernel needs nf_tables or ip_tables with nat, conntrack, recent, statistic, comment, and bridge: load the modules, " +
				"or install the distribution's full kernel"}}
	}
	return nil
}

// plugins looks for the CNI plugins of the network that pods will have.
func plugins(o Options) []Lack {
	wanted, err := wantedPlugins(o)
	if err != nil {
		return []Lack{{What: "pod network", Cause: err.Error(), Get: "mend the configuration in " + o.CNIConfDir}}
	}
	var missing []string
	for _, name := range wanted {
		if !slices.ContainsFunc(o.CNIBinDirs, func(dir string) bool { return unix.Access(filepath.Join(dir, name), unix.X_OK) == nil }) {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return []Lack{{
		What:    "CNI plugins",
		Cause:   fmt.Sprintf("no %s in %s", strings.Join(missing, " and no "), strings.Join(o.CNIBinDirs, ", ")),
		Get:     "install the standard CNI plugins in one of these folders",
		Package: "containernetworking-plugins",
	}}
}

func wantedPlugins(o Options) ([]string, error) {
	if o.CNIConfDir == "" {
		return []string{"ptp", "host-local"}, nil
	}
	files, err := libcni.ConfFiles(o.CNIConfDir, []string{".conf", ".conflist", ".json"})
	if err != nil {
		return nil, fmt.Errorf("cannot read network configurations in %s: %w", o.CNIConfDir, err)
	}
	if len(files) == 0 {
		return nil, nil // the default network takes its place
	}
	slices.Sort(files)
	data, err := os.ReadFile(files[0])
	if err != nil {
		return nil, fmt.Errorf("cannot read network configuration: %w", err)
	}
	type plugin struct {
		Type string `json:"type"`
		IPAM struct {
			Type string `json:"type"`
		} `json:"ipam"`
	}
	var conf struct {
		plugin
		Plugins []plugin `json:"plugins"`
	}
	if err := json.Unmarshal(data, &conf); err != nil {
		return nil, fmt.Errorf("cannot read network configuration %s: %w", files[0], err)
	}
	var names []string
	for _, p := range append(conf.Plugins, conf.plugin) {
		for _, name := range []string{p.Type, p.IPAM.Type} {
			if name != "" {
				names = append(names, name)
			}
		}
	}
	return names, nil
}

// dialTimeout is how long a socket of this machine may take: one that is listened at answers at once.
const dialTimeout = 5 * time.Second

// containerd looks for the programs of a containerd of our own, or dials the one that is named.
func containerd(ctx context.Context, o Options) []Lack {
	if o.Containerd != "" {
		conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "unix", o.Containerd)
		if err == nil {
			conn.Close()
			return nil
		}
		return []Lack{{What: "containerd", Cause: fmt.Sprintf("nothing answers at %s: %v", o.Containerd, err),
			Get: "start containerd, or name with --containerd the socket of one that runs, or managed"}}
	}
	if !o.Managed {
		return nil
	}
	var missing []string
	for _, name := range []string{"containerd", "containerd-shim-runc-v2", "runc"} {
		if _, err := exec.LookPath(name); err != nil {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return []Lack{{
		What:    "containerd",
		Cause:   "no " + strings.Join(missing, " and no ") + " in PATH",
		Get:     "install containerd and runc, or name the socket of one that runs with --containerd",
		Package: "containerd runc",
	}}
}

// modules looks for what the kernel must have beside what rules need.
func modules(ctx context.Context, o Options, root bool) []Lack {
	var lacks []Lack
	if (o.Snapshotter == "" || o.Snapshotter == "overlayfs") && !hasOverlay(ctx) {
		lacks = append(lacks, Lack{
			What:  "overlay",
			Cause: "the kernel has no file system overlay",
			Get:   "modprobe overlay, or another --snapshotter",
		})
	}
	if root {
		if err := network.Try(); err != nil {
			lacks = append(lacks, Lack{
				What:  "veth",
				Cause: err.Error(),
				Get:   "modprobe veth; in a container, allow it to make network namespaces (CAP_SYS_ADMIN, CAP_NET_ADMIN)",
			})
		}
	}
	return lacks
}

// hasOverlay says whether the kernel knows overlayfs, which it may have to load first.
func hasOverlay(ctx context.Context) bool {
	known := func() bool {
		data, err := os.ReadFile("/proc/filesystems")
		return err != nil || slices.Contains(strings.Fields(string(data)), "overlay") // without /proc nobody can tell
	}
	if known() {
		return true
	}
	_ = exec.CommandContext(ctx, "modprobe", "overlay").Run() // its failure is seen by what follows
	return known()
}

const cgroupRoot = "/sys/fs/cgroup"

// controllers looks for the cgroup controllers with which pods are limited.
func controllers() []Lack {
	const get = "mount cgroups and enable these controllers (boot options cgroup_enable=memory, systemd's Delegate=yes)"
	missing, cause := []string{}, ""
	if cgroups.Mode() == cgroups.Unified {
		data, err := os.ReadFile(filepath.Join(cgroupRoot, "cgroup.controllers"))
		if err != nil {
			return []Lack{{What: "cgroups", Cause: err.Error(), Get: get}}
		}
		missing = absent(strings.Fields(string(data)), "cpu", "memory", "pids")
		if err := unix.Access(cgroupRoot, unix.W_OK); err != nil {
			cause = fmt.Sprintf("cannot write %s: %v", cgroupRoot, err)
		}
	} else {
		for _, name := range []string{"cpu", "memory", "pids", "devices", "freezer"} {
			dir := filepath.Join(cgroupRoot, name)
			if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err != nil {
				missing = append(missing, name)
			} else if err := unix.Access(dir, unix.W_OK); errors.Is(err, syscall.EROFS) {
				cause = fmt.Sprintf("cannot write %s: %v", dir, err)
			}
		}
	}
	if len(missing) > 0 {
		cause = "no controller " + strings.Join(missing, ", ")
	}
	if cause == "" || os.Geteuid() != 0 && len(missing) == 0 {
		return nil
	}
	return []Lack{{What: "cgroups", Cause: cause, Get: get}}
}

func absent(have []string, wanted ...string) []string {
	return slices.DeleteFunc(wanted, func(w string) bool { return slices.Contains(have, w) })
}

// ports looks whether addresses are free by listening there for a moment.
func ports(ctx context.Context, o Options) []Lack {
	config := net.ListenConfig{Control: freebind}
	var lacks []Lack
	for _, p := range o.Ports {
		listener, err := config.Listen(ctx, "tcp", p.Address.String())
		if err == nil {
			listener.Close()
			if p.Datagrams {
				var packets net.PacketConn
				if packets, err = config.ListenPacket(ctx, "udp", p.Address.String()); err == nil {
					packets.Close()
				}
			}
		}
		if err != nil {
			lacks = append(lacks, Lack{What: fmt.Sprintf("port %d", p.Address.Port()), Cause: err.Error(), Get: p.For})
		}
	}
	return lacks
}

// freebind lets an address be one that the machine does not have yet.
func freebind(_, _ string, conn syscall.RawConn) error {
	var err error
	control := conn.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1) })
	if control != nil {
		return control
	}
	return err
}

// disk looks whether the folders can be written, and how much is left.
func disk(o Options) []Lack {
	var lacks []Lack
	for _, dir := range o.Dirs {
		at := existing(dir)
		f, err := os.CreateTemp(at, ".lockstep-preflight-")
		if err == nil {
			err = errors.Join(f.Close(), os.Remove(f.Name()))
		}
		if err != nil {
			lacks = append(lacks, Lack{
				What:  "folder " + dir,
				Cause: err.Error(),
				Get:   "have a disk there that can be written to, or name another with --data-dir and --run-dir",
			})
		}
	}
	var fs unix.Statfs_t
	if o.DataDir == "" || unix.Statfs(existing(o.DataDir), &fs) != nil {
		return lacks
	}
	if left := int64(fs.Bavail) * fs.Bsize; left < LeastDisk {
		lacks = append(lacks, Lack{
			What:  "disk",
			Cause: fmt.Sprintf("%d MiB are left where %s is, a node begins with %d MiB", left>>20, o.DataDir, LeastDisk>>20),
			Get:   "free some, or name another disk with --data-dir",
		})
	}
	return lacks
}

// existing is the folder, or the nearest above it that exists.
func existing(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}
