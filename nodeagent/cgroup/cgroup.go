// Package cgroup makes, bounds and removes cgroups of either version.
package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Mount is where the kernel shows cgroups.
const Mount = "/sys/fs/cgroup"

// V2 says whether the machine has only the unified hierarchy.
func V2() bool { return cgroups.Mode() == cgroups.Unified }

// Controls says whether the machine's cgroups have a controller, such as hugetlb.
func Controls(controller string) bool { return controls(Mount, V2(), controller) }

func controls(mount string, unified bool, controller string) bool {
	if unified {
		data, err := os.ReadFile(filepath.Join(mount, "cgroup.controllers"))
		return err == nil && slices.Contains(strings.Fields(string(data)), controller)
	}
	_, err := os.Stat(filepath.Join(mount, controller, "cgroup.procs"))
	return err == nil
}

// SwapLimits says whether cgroups bound swap, which some kernels must be
// told at their start (swapaccount=1).
func SwapLimits() bool { return swapLimits(Mount, V2()) }

func swapLimits(mount string, unified bool) bool {
	if unified { // the root has no limits, so a cgroup below it is asked
		files, _ := filepath.Glob(filepath.Join(mount, "*", "memory.swap.max"))
		return len(files) > 0
	}
	_, err := os.Stat(filepath.Join(mount, "memory", "memory.memsw.limit_in_bytes"))
	return err == nil
}

// Make makes a cgroup with limits, or sets them anew.
func Make(path string, limits *specs.LinuxResources) error {
	var err error
	if V2() {
		wants := cgroup2.ToResources(limits)
		if wants.Memory == nil && len(limits.Unified) > 0 { // whose controller they are of
			wants.Memory = &cgroup2.Memory{}
		}
		if _, err = cgroup2.NewManager(Mount, path, wants); err == nil {
			err = unify(filepath.Join(Mount, path), limits.Unified)
		}
	} else {
		_, err = cgroup1.New(cgroup1.StaticPath(path), limits)
	}
	if err != nil {
		return fmt.Errorf("cannot make cgroup %s: %w", path, err)
	}
	return nil
}

// unify writes limits that only the unified hierarchy has, by the names of their files, into a cgroup's directory.
func unify(dir string, values map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString(values[name])
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// Remove removes a cgroup with those below it, which must have no
// processes; an absent one is no error. The kernel may need a moment after the last process has ended.
func Remove(path string) error {
	var errs []error
	for _, root := range Hierarchies() {
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

// Hierarchies are the roots that a cgroup has to be removed from.
func Hierarchies() []string {
	if V2() {
		return []string{Mount}
	}
	entries, _ := os.ReadDir(Mount)
	var roots []string
	for _, e := range entries {
		if e.IsDir() {
			roots = append(roots, filepath.Join(Mount, e.Name()))
		}
	}
	return roots
}

// OOMKilled says whether the kernel killed a process of the cgroup for lack
// of memory. It can be asked while the cgroup is there.
func OOMKilled(cgroup string) bool {
	path := filepath.Join(Mount, "memory", cgroup, "memory.oom_control")
	if V2() {
		path = filepath.Join(Mount, cgroup, "memory.events")
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
