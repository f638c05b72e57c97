package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Down ends every process of the lab and removes its folder. It also works for a lab whose making was cut short, and
// calling it again changes nothing.
func (l *Lab) Down(ctx context.Context) error { return Remove(ctx, l.dir) }

// Remove ends and removes the lab in a folder, whatever is left of it: it needs no state file, and not even the holders.
func Remove(ctx context.Context, dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("cannot remove a lab: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove a lab: %w", err)
	}
	if !isLab(entries) {
		return fmt.Errorf("cannot remove a lab: %s holds something else", dir)
	}
	var nodes []string
	if hosts, err := os.ReadDir(filepath.Join(dir, "hosts")); err == nil {
		for _, h := range hosts {
			nodes = append(nodes, h.Name())
		}
	}
	in := spaces{}
	defer in.close()
	for tries := 1; ; tries++ {
		if err := killAll(ctx, func() []process { return labProcesses(dir, nodes, in) }); err != nil {
			return fmt.Errorf("cannot end the lab in %s: %w", dir, err)
		}
		// A process that was being started has its mark only now, and may have written into a folder that was removed.
		err := unmountDisks(dir, nodes)
		if err == nil {
			err = removeDir(dir, entries)
		}
		if errors.Is(err, unix.ENOTEMPTY) && tries < removals {
			continue
		}
		errs := []error{err}
		for _, node := range nodes {
			errs = append(errs, removeCgroups(node))
		}
		return errors.Join(errs...)
	}
}

// removals bounds the tries to remove a folder: whoever has started what still writes there has ended before the second.
const removals = 5

// isLab says whether a folder was made by Up; a lab whose making or removal was cut short is one too.
func isLab(entries []fs.DirEntry) bool {
	return len(entries) == 0 || slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == markerFile })
}

// removeDir removes the lab's folder, what tells that it is one last.
func removeDir(dir string, entries []fs.DirEntry) error {
	for _, e := range entries {
		if e.Name() == markerFile {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("cannot remove the lab's folder: %w", err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("cannot remove the lab's folder: %w", err)
	}
	return nil
}

// labProcesses are the processes that carry the lab's mark, everything in the mount namespaces of those that are not the
// machine's own, what is in the control groups of the nodes' pods, and all descendants. It adds those namespaces to in.
func labProcesses(dir string, nodes []string, in spaces) []process {
	marked := map[int]bool{}
	here := mountNamespace(os.Getpid())
	for _, p := range descendants(func(pid int) bool { return isMarked(pid, dir) }) {
		marked[p.PID] = true
		if space := mountNamespace(p.PID); space != "" && space != here {
			in.add(p.PID)
		}
	}
	for _, node := range nodes {
		for _, pid := range cgroupProcesses(node) {
			marked[pid] = true
		}
	}
	return descendants(func(pid int) bool { return marked[pid] || in.have(pid) })
}

func isMarked(pid int, dir string) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return err == nil && slices.Contains(strings.Split(string(raw), "\x00"), mark+"="+dir)
}

// cgroupsOf returns the control groups whose path has the node's name as an element below one of Lockstep's, parents
// first.
func cgroupsOf(node string) []string {
	var groups []string
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil //nolint:nilerr // a group that went away meanwhile is none
		}
		if _, below, ok := strings.Cut(path+"/", "/lockstep"); ok && strings.Contains("/"+below, "/"+node+"/") {
			groups = append(groups, path)
		}
		return nil
	})
	return groups
}

// cgroupProcesses returns the ids of the processes in the node's control groups, as this process sees them.
func cgroupProcesses(node string) []int {
	var out []int
	for _, group := range cgroupsOf(node) {
		raw, err := os.ReadFile(filepath.Join(group, "cgroup.procs"))
		if err != nil {
			continue
		}
		for _, line := range strings.Fields(string(raw)) {
			if pid, err := strconv.Atoi(line); err == nil && pid != 0 && !slices.Contains(out, pid) {
				out = append(out, pid)
			}
		}
	}
	return out
}

// removeCgroups removes the node's control groups, deepest first, and those of Lockstep's above them that are empty then.
// The processes in them must be gone; the kernel may need a moment to notice.
func removeCgroups(node string) error {
	groups := cgroupsOf(node)
	for i := len(groups) - 1; i >= 0; i-- {
		if err := removeCgroup(groups[i]); err != nil {
			return err
		}
	}
	empty, err := filepath.Glob("/sys/fs/cgroup/*/lockstep*")
	if err != nil {
		return fmt.Errorf("cannot look for control groups: %w", err)
	}
	unified, err := filepath.Glob("/sys/fs/cgroup/lockstep*")
	if err != nil {
		return fmt.Errorf("cannot look for control groups: %w", err)
	}
	for _, group := range append(empty, unified...) {
		_ = unix.Rmdir(group) // one that still has groups of other nodes stays
	}
	return nil
}

func removeCgroup(path string) error {
	const patience = 2 * time.Second // a killed process leaves its group within milliseconds of its last thread's end
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Rmdir(path)
		switch {
		case err == nil, errors.Is(err, unix.ENOENT):
			return nil
		case !errors.Is(err, unix.EBUSY) || time.Now().After(end):
			return fmt.Errorf("cannot remove control group %s: %w", path, err)
		}
	}
}

// collectLogs keeps the services' logs of a lab that did not come up, since its folder is about to go.
func (l *Lab) collectLogs() error {
	var text []string
	for _, h := range l.state.Hosts {
		for _, s := range h.serviceNames() {
			if t := strings.TrimSpace(tail(h.LogFile(s))); t != "" {
				text = append(text, fmt.Sprintf("--- %s on %s ---\n%s", s, h.Name, t))
			}
		}
	}
	if len(text) == 0 {
		return nil
	}
	return errors.New(strings.Join(text, "\n"))
}
