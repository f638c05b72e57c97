package cgroup

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"lockstep/internal/sleep"
	"lockstep/nodeagent/process"
)

// EndTimeout bounds how long killed processes may take to go: one that waits
// for a dead disk stays, and is told.
const EndTimeout = 10 * time.Second

// Processes are the processes of a cgroup and of those below it, by the path
// of theirs relative to it.
func Processes(path string) map[int]string {
	out := map[int]string{}
	for _, root := range Hierarchies() {
		top := filepath.Join(root, path)
		_ = filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return nil // a cgroup that went away meanwhile, or a file
			}
			data, _ := os.ReadFile(filepath.Join(p, "cgroup.procs"))
			for line := range strings.Lines(string(data)) {
				if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && pid > 0 {
					out[pid], _ = filepath.Rel(top, p)
				}
			}
			return nil
		})
	}
	return out
}

// Kill kills the processes of a cgroup that are wanted dead, by the path of
// theirs relative to it, until there are none. It returns whose they were.
func Kill(ctx context.Context, path string, wanted func(below string) bool) (killed map[int]string, err error) {
	ctx, cancel := context.WithTimeout(ctx, EndTimeout)
	defer cancel()
	killed = map[int]string{}
	for {
		left := 0
		for pid, below := range Processes(path) {
			if !wanted(below) || !process.Alive(pid) {
				continue
			}
			left++
			if process.Kill(pid, func() bool { return Within(pid, path) }) {
				killed[pid] = below
			}
		}
		if left == 0 {
			return killed, nil
		}
		if !sleep.For(ctx, 10*time.Millisecond) { // a killed process needs a moment to go
			return killed, fmt.Errorf("cannot end %d processes in cgroup %s: %w", left, path, ctx.Err())
		}
	}
}

// Within says whether a process is in a cgroup or below it.
func Within(pid int, path string) bool {
	data, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	for line := range strings.Lines(string(data)) {
		_, own, _ := strings.Cut(strings.TrimSpace(line), ":")
		if _, own, _ = strings.Cut(own, ":"); own == path || strings.HasPrefix(own, path+"/") {
			return true
		}
	}
	return false
}
