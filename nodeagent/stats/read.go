package stats

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// used is what something has used.
type used struct {
	cpu                     uint64 // nanoseconds since it began
	memory, workingSet, rss uint64 // bytes
	limit                   uint64 // bytes; zero for none
	faults, majorFaults     uint64
	booted                  time.Time // of the node only
}

// noLimit is more memory than there is: what v1 shows where nothing is set.
const noLimit = math.MaxInt64 / 2

// readCgroup reads a cgroup of either version.
func readCgroup(path string) (used, error) {
	if path == "" {
		return used{}, fs.ErrNotExist
	}
	if cgroups.Mode() == cgroups.Unified {
		return readCgroup2(path)
	}
	return readCgroup1(path)
}

func readCgroup1(path string) (used, error) {
	group, err := cgroup1.Load(cgroup1.StaticPath(path))
	if err != nil {
		return used{}, err
	}
	m, err := group.Stat(cgroup1.IgnoreNotExist)
	if err != nil {
		return used{}, err
	}
	var u used
	if m.CPU != nil && m.CPU.Usage != nil {
		u.cpu = m.CPU.Usage.Total
	}
	if m.Memory != nil {
		if m.Memory.Usage != nil {
			u.memory = m.Memory.Usage.Usage
			if m.Memory.Usage.Limit < noLimit {
				u.limit = m.Memory.Usage.Limit
			}
		}
		u.workingSet = less(u.memory, m.Memory.TotalInactiveFile)
		u.rss = m.Memory.TotalRSS
		u.faults, u.majorFaults = m.Memory.TotalPgFault, m.Memory.TotalPgMajFault
	}
	return u, nil
}

func readCgroup2(path string) (used, error) {
	group, err := cgroup2.Load(path)
	if err != nil {
		return used{}, err
	}
	m, err := group.Stat()
	if err != nil {
		return used{}, err
	}
	var u used
	if m.CPU != nil {
		u.cpu = m.CPU.UsageUsec * uint64(time.Microsecond)
	}
	if m.Memory != nil {
		u.memory = m.Memory.Usage
		u.workingSet = less(u.memory, m.Memory.InactiveFile)
		u.rss = m.Memory.Anon
		u.faults, u.majorFaults = m.Memory.Pgfault, m.Memory.Pgmajfault
		if m.Memory.UsageLimit < noLimit {
			u.limit = m.Memory.UsageLimit
		}
	}
	return u, nil
}

func less(a, b uint64) uint64 {
	if b > a {
		return 0
	}
	return a - b
}

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
				if n, err := strconv.ParseUint(field, 10, 64); err == nil && i != 3 && i != 4 && i != 7 {
					u.cpu += n * uint64(tick)
				}
			}
		case len(fields) == 2 && fields[0] == "btime":
			if n, err := strconv.ParseInt(fields[1], 10, 64); err == nil {
				u.booted = time.Unix(n, 0)
			}
		}
	}
	info := table(memory)
	u.limit = info["MemTotal:"] << 10
	if u.limit == 0 {
		return used{}, errors.New("/proc/meminfo has no MemTotal")
	}
	u.memory = less(u.limit, info["MemFree:"]<<10)
	u.workingSet = less(u.memory, info["Inactive(file):"]<<10)
	u.rss = info["AnonPages:"] << 10
	counts := table(vm)
	u.faults, u.majorFaults = counts["pgfault"], counts["pgmajfault"]
	return u, nil
}

// table reads lines of a name and a number.
func table(text []byte) map[string]uint64 {
	rows := map[string]uint64{}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		if n, err := strconv.ParseUint(fields[1], 10, 64); err == nil {
			rows[fields[0]] = n
		}
	}
	return rows
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

// readNetwork reads the interfaces' counters in a network namespace; an empty path means the agent's.
func readNetwork(path string, now time.Time) (*statsapi.NetworkStats, error) {
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
	s := &statsapi.NetworkStats{Time: metav1.NewTime(now)}
	for _, link := range links {
		attrs := link.Attrs()
		if attrs.Name == "lo" || attrs.Statistics == nil || path == "" && link.Type() == "veth" {
			continue // a pod's end on the host is counted in the pod
		}
		n := attrs.Statistics
		one := statsapi.InterfaceStats{
			Name: attrs.Name, RxBytes: &n.RxBytes, RxErrors: &n.RxErrors, TxBytes: &n.TxBytes, TxErrors: &n.TxErrors,
		}
		s.Interfaces = append(s.Interfaces, one)
		if attrs.Name == main {
			s.InterfaceStats = one
		}
	}
	return s, nil
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
