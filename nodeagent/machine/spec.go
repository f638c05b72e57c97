package machine

import (
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/contrib/apparmor"
	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/containerd/containerd/v2/pkg/oci"
	"golang.org/x/sys/unix"

	"lockstep/nodeagent/cgroup"
	"lockstep/nodeagent/register"
	"lockstep/nodeagent/spec"
)

// Allowances are what whoever runs the node lets pods have, and where the machine keeps what they are made of.
type Allowances struct {
	// Pids bounds a pod's processes; 0: nothing does.
	Pids   int64
	Memory spec.MemoryPolicy
	// Sysctls are those that pods may set beside the safe ones; one that ends in a star is for all that begin so.
	Sysctls []string
	// Runc is the program that runs containers; runc if empty.
	Runc string
	// Layers is where containerd has images' layers, empty where that is not known. RunDir is for what ends with the agent.
	Layers, RunDir string
}

// Spec learns what specifications of containers depend on, beside the facts. Where the kernel has AppArmor it loads
// containerd's default profile.
func Spec(node string, facts register.Facts, o Allowances, log *slog.Logger) (spec.Node, error) {
	caps, err := cap.Current()
	if err != nil {
		return spec.Node{}, fmt.Errorf("cannot read own capabilities: %w", err)
	}
	devices, err := oci.HostDevices()
	if err != nil {
		return spec.Node{}, fmt.Errorf("cannot list devices: %w", err)
	}
	can := readFeatures(o.Runc)
	n := spec.Node{Name: node, Allocatable: facts.Allocatable(), MemoryCapacity: facts.Memory, CgroupV2: cgroup.V2(),
		OOMFloor: -1000, Capabilities: caps, Devices: devices, SwapLimits: cgroup.SwapLimits(), Memory: o.Memory, Swap: facts.Swap,
		PodPids:           o.Pids,
		RecursiveReadOnly: can.recursiveReadOnly(), NoUserNamespaces: can.noUserNamespaces(o.Layers, o.RunDir),
		Runtimes: facts.Runtimes, Sysctls: slices.Concat(spec.SafeSysctls(facts.Kernel), o.Sysctls)}
	if _, err := os.Stat("/sys/fs/selinux/enforce"); err == nil {
		n.SELinux = true
	}
	if cgroup.Controls("hugetlb") {
		n.HugePages = slices.Sorted(maps.Keys(facts.Hugepages))
	}
	if n.MaxOpenFiles, err = maxOpenFiles(caps); err != nil {
		return spec.Node{}, err
	}
	if floor, free := oomFloor(caps); !free {
		n.OOMFloor = floor
		log.Info("without CAP_SYS_RESOURCE no container gets a lower oom_score_adj than this process has", "floor", floor)
	}
	if n.AppArmor = appArmor(); n.AppArmor {
		if err := apparmor.LoadDefaultProfile(defaultAppArmor); err != nil {
			log.Warn("cannot load the default AppArmor profile: pods that ask for it do not start here", "error", err)
		} else {
			n.AppArmorDefault = defaultAppArmor
		}
	}
	return n, nil
}

// maxOpenFiles is the highest limit of open files that may be given: the
// kernel's, or without the right to raise limits this process's own.
func maxOpenFiles(caps []string) (uint64, error) {
	data, err := os.ReadFile("/proc/sys/fs/nr_open")
	if err != nil {
		return 0, err
	}
	most, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	if err != nil || slices.Contains(caps, "CAP_SYS_RESOURCE") {
		return most, err
	}
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &own); err != nil {
		return 0, fmt.Errorf("cannot read own limit of open files: %w", err)
	}
	return min(most, own.Max), nil
}

// defaultAppArmor is the name under which containerd's default profile is
// loaded; apparmor_parser does it.
const defaultAppArmor = "lockstep-default"

// appArmor says that the kernel enforces AppArmor profiles.
func appArmor() bool {
	data, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && strings.HasPrefix(string(data), "Y")
}

// oomFloor is the lowest oom_score_adj that children may get; free says that
// there is no such limit.
func oomFloor(caps []string) (floor int, free bool) {
	if slices.Contains(caps, "CAP_SYS_RESOURCE") {
		return -1000, true
	}
	data, _ := os.ReadFile("/proc/self/oom_score_adj")
	_, _ = fmt.Sscan(string(data), &floor)
	return floor, false
}
