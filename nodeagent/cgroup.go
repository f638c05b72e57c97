package nodeagent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/nodeagent/register"
)

const cgroupMount = "/sys/fs/cgroup"

// cgroupV2 says whether the machine has only the unified hierarchy.
func cgroupV2() bool { return cgroups.Mode() == cgroups.Unified }

// nodeCgroup is the parent of all pods' cgroups of this node; the node's name
// is in it, so that several nodes fit on one machine.
func nodeCgroup(node string) string { return filepath.Join("/lockstep", node) }

func (a *Agent) podCgroup(uid types.UID) string {
	return filepath.Join(nodeCgroup(a.opts.NodeName), "pod"+string(uid))
}

// makePodCgroup makes the pod's cgroup with its limits, or sets them anew.
func (a *Agent) makePodCgroup(uid types.UID, limits *specs.LinuxResources) error {
	return makeCgroup(a.podCgroup(uid), limits)
}

// ownPids is the share of the machine's process numbers that pods together
// cannot take, one in so many: less than that at which the node says
// PIDPressure, and enough to end pods with.
const ownPids = 25

// makeNodeCgroup makes the parent of all pods' cgroups, which bounds what they
// take together.
func (a *Agent) makeNodeCgroup() error {
	if a.opts.PodPidsLimit < 0 {
		return nil
	}
	most, err := register.MostPIDs()
	if err != nil {
		return err
	}
	limit := most - most/ownPids
	return makeCgroup(nodeCgroup(a.opts.NodeName), &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}})
}

// swapLimits says whether cgroup v1 bounds swap, which some kernels must be
// told at their start (swapaccount=1).
func swapLimits() bool {
	_, err := os.Stat(filepath.Join(cgroupMount, "memory", "memory.memsw.limit_in_bytes"))
	return err == nil
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

func makeCgroup(path string, limits *specs.LinuxResources) error {
	var err error
	if cgroupV2() {
		_, err = cgroup2.NewManager(cgroupMount, path, cgroup2.ToResources(limits))
	} else {
		_, err = cgroup1.New(cgroup1.StaticPath(path), limits)
	}
	if err != nil {
		return fmt.Errorf("cannot make cgroup %s: %w", path, err)
	}
	return nil
}

// removePodCgroup removes the pod's cgroup from every hierarchy; an absent one
// is no error.
func (a *Agent) removePodCgroup(uid types.UID) error { return removeCgroup(a.podCgroup(uid)) }

// removeCgroup removes a cgroup with those below it, which must have no
// processes. The kernel may need a moment after the last process has ended.
func removeCgroup(path string) error {
	var errs []error
	for _, root := range hierarchies() {
		top := filepath.Join(root, path)
		if _, err := os.Stat(top); err != nil {
			continue
		}
		var dirs []string
		_ = filepath.WalkDir(top, func(p string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, p)
			}
			return nil
		})
		for i := len(dirs) - 1; i >= 0; i-- {
			var err error
			for try := range 6 {
				if err = syscall.Rmdir(dirs[i]); err == nil || errors.Is(err, syscall.ENOENT) {
					err = nil
					break
				}
				time.Sleep(time.Duration(try+1) * 5 * time.Millisecond)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("cannot remove cgroup %s: %w", dirs[i], err))
			}
		}
	}
	return errors.Join(errs...)
}

// hierarchies are the roots that a cgroup has to be removed from.
func hierarchies() []string {
	if cgroupV2() {
		return []string{cgroupMount}
	}
	entries, _ := os.ReadDir(cgroupMount)
	var roots []string
	for _, e := range entries {
		if e.IsDir() {
			roots = append(roots, filepath.Join(cgroupMount, e.Name()))
		}
	}
	return roots
}

// oomKilled says whether the kernel killed a process of the container for lack
// of memory. It can be asked until the container is reaped.
func (a *Agent) oomKilled(uid types.UID, id string) bool {
	path := filepath.Join(cgroupMount, "memory", a.podCgroup(uid), id, "memory.oom_control")
	if cgroupV2() {
		path = filepath.Join(cgroupMount, a.podCgroup(uid), id, "memory.events")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	for l := range strings.Lines(string(data)) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(l), "oom_kill "); ok {
			return n != "0"
		}
	}
	return false
}
