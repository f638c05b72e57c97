// Package starved tells tests how long a process wanted a processor and got none: what a busy machine does to everybody.
package starved

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Of sums that up over the threads that a process has now, each since it began; 0 of a process that has ended. It is the
// second field of /proc/PID/task/TID/schedstat.
func Of(pid int) (sum time.Duration) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		return 0
	}
	for _, name := range files {
		raw, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		var running, waiting int64
		_, _ = fmt.Sscan(string(raw), &running, &waiting)
		sum += time.Duration(waiting)
	}
	return sum
}
