package companion

import (
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const (
	unifiedRoot = "/sys/fs/cgroup"
	// hybridRoot is where systemd keeps the v2 hierarchy, with which it tracks processes, beside the v1 controllers.
	hybridRoot = "/sys/fs/cgroup/unified"
)

// enter moves the process into the cgroup, which it makes, without limits. An empty path moves nothing.
func enter(path string, pid int) error {
	if path == "" {
		return nil
	}
	if cgroups.Mode() == cgroups.Unified {
		group, err := cgroup2.NewManager(unifiedRoot, path, &cgroup2.Resources{})
		if err != nil {
			return err
		}
		return group.AddProc(uint64(pid))
	}
	group, err := cgroup1.New(cgroup1.StaticPath(path), &specs.LinuxResources{})
	if err != nil {
		return err
	}
	if err := group.AddProc(uint64(pid)); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(hybridRoot, "cgroup.procs")); err != nil {
		return nil
	}
	dir := filepath.Join(hybridRoot, path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
}
