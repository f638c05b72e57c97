package stats

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// readNode reads what the whole machine uses.
func readNode() (used, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return used{}, err
	}
	memory, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return used{}, err
	}
	vm, err := os.ReadFile("/proc/vmstat")
	if err != nil {
		return used{}, err
	}
	return parseNode(stat, memory, vm)
}

// tick is the unit of /proc/stat: USER_HZ is 100 on every architecture Linux runs on today.
const tick = 10 * time.Millisecond

// parseNode takes /proc/stat, /proc/meminfo and /proc/vmstat (proc(5)).
func parseNode(stat, memory, vm []byte) (used, error) {
	var u used
	lines := bufio.NewScanner(bytes.NewReader(stat))
	lines.Buffer(nil, 1<<20) // the line of interrupts is long on large machines
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) >= 9 && fields[0] == "cpu":
			// user nice system idle iowait irq softirq steal; guest time is in user's.
			for i, field := range fields[1:9] {
				n := number([]byte(field)) * uint64(tick)
				switch i {
				case 3, 4, 7:
					continue
				case 0, 1:
					u.user += n
				default:
					u.system += n
				}
				u.cpu += n
			}
		case len(fields) == 2 && fields[0] == "btime":
			if n, err := strconv.ParseInt(fields[1], 10, 64); err == nil {
				u.booted = time.Unix(n, 0)
			}
		}
	}
	info := table(memory)
	u.limits.memory = info["MemTotal:"] << 10
	if u.limits.memory == 0 {
		return used{}, errors.New("/proc/meminfo has no MemTotal")
	}
	u.memory = less(u.limits.memory, info["MemFree:"]<<10)
	u.activeFile, u.inactiveFile = info["Active(file):"]<<10, info["Inactive(file):"]<<10
	u.workingSet = less(u.memory, u.inactiveFile)
	u.rss, u.cache, u.mapped = info["AnonPages:"]<<10, info["Cached:"]<<10, info["Mapped:"]<<10
	u.limits.swap = info["SwapTotal:"] << 10
	u.swap = less(u.limits.swap, info["SwapFree:"]<<10)
	counts := table(vm)
	u.faults, u.majorFaults, u.oomKills = counts["pgfault"], counts["pgmajfault"], counts["oom_kill"]
	return u, nil
}

// cores counts a machine's CPUs, and the cores and sockets they are of, from sysfs; a machine that does not tell has one
// of each a CPU, and one socket.
func cores(root string) (cpus, physical, sockets int) {
	seen, packages := map[string]bool{}, map[string]bool{}
	dirs, _ := filepath.Glob(filepath.Join(root, "cpu[0-9]*"))
	for _, dir := range dirs {
		if online, err := os.ReadFile(filepath.Join(dir, "online")); err == nil && number(online) == 0 {
			continue // cpu0 often has no such file
		}
		cpus++
		core, err := os.ReadFile(filepath.Join(dir, "topology", "core_id"))
		if err != nil {
			seen[dir] = true
			continue
		}
		socket, _ := os.ReadFile(filepath.Join(dir, "topology", "physical_package_id"))
		seen[string(socket)+"/"+string(core)], packages[string(socket)] = true, true
	}
	return cpus, len(seen), max(len(packages), 1)
}

// blockDevices is where the kernel tells block devices' names by their numbers.
const blockDevices = "/sys/dev/block"

// deviceName is "/dev/sda" for "8:0", or the numbers where the device has no name.
func deviceName(numbers string) string {
	target, err := os.Readlink(filepath.Join(blockDevices, numbers))
	if err != nil {
		return numbers
	}
	return "/dev/" + filepath.Base(target)
}

// deviceOf is the name of the device that a path is on.
func deviceOf(path string) string {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return ""
	}
	return deviceName(fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
}

// readFS reads the state of the file system that path is on.
func readFS(path string, now time.Time) (*statsapi.FsStats, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return nil, fmt.Errorf("cannot measure the file system of %s: %w", path, err)
	}
	size := uint64(st.Bsize)
	capacity, available, taken := st.Blocks*size, st.Bavail*size, (st.Blocks-st.Bfree)*size
	inodes, free, inodesTaken := st.Files, st.Ffree, less(st.Files, st.Ffree)
	return &statsapi.FsStats{
		Time:          metav1.NewTime(now),
		CapacityBytes: &capacity, AvailableBytes: &available, UsedBytes: &taken,
		Inodes: &inodes, InodesFree: &free, InodesUsed: &inodesTaken,
	}, nil
}

// mainInterface is a pod's own.
const mainInterface = "eth0"

// link is an interface with its counters.
type link struct {
	name string
	main bool // the one that a pod's, or the node's, traffic goes through
	netlink.LinkStatistics
}

// readNetwork reads the interfaces' counters in a network namespace; an empty path means the agent's.
func readNetwork(path string) ([]link, error) {
	handle, err := openNetlink(path)
	if err != nil {
		return nil, err
	}
	defer handle.Close()
	links, err := handle.LinkList()
	if err != nil {
		return nil, err
	}
	main := mainInterface
	if path == "" {
		main = defaultInterface(handle, links)
	}
	out := []link{}
	for _, l := range links {
		attrs := l.Attrs()
		if attrs.Name == "lo" || attrs.Statistics == nil || path == "" && l.Type() == "veth" {
			continue // a pod's end on the host is counted in the pod
		}
		out = append(out, link{name: attrs.Name, main: attrs.Name == main, LinkStatistics: *attrs.Statistics})
	}
	return out, nil
}

func openNetlink(path string) (*netlink.Handle, error) {
	if path == "" {
		return netlink.NewHandle(unix.NETLINK_ROUTE)
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	return netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
}

// defaultInterface is the one the default route goes through; empty when there is none.
func defaultInterface(handle *netlink.Handle, links []netlink.Link) string {
	routes, err := handle.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return ""
	}
	for _, route := range routes {
		if route.Dst != nil && route.Dst.IP != nil && !route.Dst.IP.IsUnspecified() {
			continue
		}
		for _, link := range links {
			if link.Attrs().Index == route.LinkIndex {
				return link.Attrs().Name
			}
		}
	}
	return ""
}
