// Package shrink gives memory back that a process needed to start, and no more.
package shrink

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
)

// after is when a control plane or a node has come up, if it comes up soon; what is used later comes back by itself.
const after = 15 * time.Second

// Once shrinks the process when it has come up, and returns then, or when ctx ends.
func Once(ctx context.Context) {
	t := time.NewTimer(after)
	defer t.Stop()
	select {
	case <-t.C:
		Now()
	case <-ctx.Done():
	}
}

// Now gives back what the heap has no use for, and the pages of the program's code that were touched so far: most of them by packages
// that prepare themselves. They are in the page cache; those that are needed come back by themselves.
func Now() {
	debug.FreeOSMemory() // first: collecting touches code all over the program
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return
	}
	for _, m := range cleanMappings(string(maps), exe) {
		_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, m.from, m.to-m.from, syscall.MADV_DONTNEED)
	}
}

type mapping struct{ from, to uintptr }

// cleanMappings finds, in the text of /proc/self/smaps (proc(5)), the mappings of a file that are read-only and have no
// page of their own: dropping a page that was once written, as the loader writes its relocations, would lose that.
func cleanMappings(smaps, file string) []mapping {
	var clean []mapping
	var current mapping
	for line := range strings.Lines(smaps) {
		line = strings.TrimSpace(line)
		var m mapping
		var mode string
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &m.from, &m.to, &mode); n == 3 {
			current = mapping{}
			if strings.HasPrefix(mode, "r-") && strings.HasSuffix(line, " "+file) {
				current = m
			}
			continue
		}
		if current.to != 0 && strings.HasPrefix(line, "Anonymous:") && strings.HasSuffix(line, " 0 kB") {
			clean = append(clean, current)
		}
	}
	return clean
}
