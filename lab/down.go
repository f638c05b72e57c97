package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Down ends every process of the lab and removes its folder. It also works for a lab whose making was cut short, and
// calling it again changes nothing.
func (l *Lab) Down(ctx context.Context) error { return Remove(ctx, l.dir) }

// Remove ends and removes the lab in a folder, whatever is left of it: it finds the holders by their command line, so
// that it does not need the state file.
func Remove(ctx context.Context, dir string) error {
	var names []string
	if entries, err := os.ReadDir(filepath.Join(dir, "hosts")); err == nil {
		for _, e := range entries {
			names = append(names, e.Name())
		}
	}
	if err := killAll(ctx, func() []process { return labProcesses(dir) }); err != nil {
		return fmt.Errorf("cannot end the lab in %s: %w", dir, err)
	}
	var errs []error
	for _, name := range names {
		errs = append(errs, removeCgroups(name))
	}
	if err := os.RemoveAll(dir); err != nil {
		errs = append(errs, fmt.Errorf("cannot remove the lab's folder: %w", err))
	}
	return errors.Join(errs...)
}

// labProcesses are the lab's holders, everything in their mount namespaces, and all descendants of those.
func labProcesses(dir string) []process {
	holders := descendants(func(pid int) bool {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		args := strings.Split(string(raw), "\x00")
		return err == nil && len(args) > 3 && args[1] == holderArg && args[2] == dir
	})
	return descendants(func(pid int) bool {
		for _, h := range holders {
			if pid == h.PID || sameNamespace(pid, h.PID, "mnt") {
				return true
			}
		}
		return false
	})
}

// removeCgroups removes the control groups whose path has the node's name as an element, deepest first. The processes
// in them must be gone; the kernel may need a moment to notice.
func removeCgroups(node string) error {
	var groups []string
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(path+"/", "/"+node+"/") {
			groups = append(groups, path)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("cannot look for control groups of %s: %w", node, err)
	}
	for i := len(groups) - 1; i >= 0; i-- {
		if err := removeCgroup(groups[i]); err != nil {
			return err
		}
		// Lockstep's own groups above the node's go with the last node; others keep them.
		if parent := filepath.Dir(groups[i]); strings.HasPrefix(filepath.Base(parent), "lockstep") {
			_ = unix.Rmdir(parent)
		}
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
