package register

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Left is what is left of a machine's resources, and what there is in all.
type Left struct {
	Memory     int64 // bytes; capacity less the working set, as the kubelet reckons it
	Node       Space // the file system of volumes and logs
	Images     Space // the file system of images and containers' own writes
	PIDs       int64
	PIDsAtMost int64
}

// Space is what is left of a file system.
type Space struct{ Bytes, Size, Inodes, InodesSize int64 }

const (
	// The kubelet's thresholds of hard eviction for Linux. It has none for
	// PIDs unless one is configured; the share is what hosted clusters set.
	leastMemory      = 100 << 20
	leastNodeBytes   = 10 // percent
	leastImagesBytes = 15
	leastInodes      = 5
	leastPIDs        = 5
	// holdPressure is how long a condition stays after its threshold was last
	// crossed, the kubelet's --eviction-pressure-transition-period.
	holdPressure = 5 * time.Minute
)

// ReadLeft measures the machine; memory is its capacity, dirs are on the file
// systems of volumes and of images.
func ReadLeft(memory int64, nodeDir, imageDir string) (Left, error) {
	var l Left
	free, err := meminfo("MemFree")
	if err == nil {
		// The working set is what is in use without the page cache that is
		// easily given back: inactive file pages.
		var inactive int64
		inactive, err = meminfo("Inactive(file)")
		l.Memory = min(free+inactive, memory)
	}
	if err != nil {
		return l, err
	}
	if l.Node, err = readSpace(nodeDir); err != nil {
		return l, err
	}
	if l.Images, err = readSpace(imageDir); err != nil {
		return l, err
	}
	l.PIDs, l.PIDsAtMost, err = readPIDs()
	return l, err
}

func readSpace(dir string) (Space, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return Space{}, fmt.Errorf("cannot measure the disk at %s: %w", dir, err)
	}
	return Space{
		Bytes:      int64(fs.Bavail) * fs.Bsize,
		Size:       int64(fs.Blocks) * fs.Bsize,
		Inodes:     int64(fs.Ffree),
		InodesSize: int64(fs.Files),
	}, nil
}

// MostPIDs returns how many processes and threads the kernel allows.
func MostPIDs() (most int64, err error) {
	for _, name := range []string{"/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"} {
		n, err := strconv.ParseInt(line(name), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("cannot read %s: %w", name, err)
		}
		if most == 0 || n < most {
			most = n
		}
	}
	return most, nil
}

// readPIDs returns how many more processes and threads may be made.
func readPIDs() (left, most int64, err error) {
	if most, err = MostPIDs(); err != nil {
		return 0, 0, err
	}
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0, 0, fmt.Errorf("cannot count processes: %w", err)
	}
	used, err := parseLoad(string(data))
	return most - used, most, err
}

// parseLoad takes /proc/loadavg, "0.20 0.18 0.12 1/80 11206", whose fourth
// field ends with the number of processes and threads (proc(5)).
func parseLoad(text string) (int64, error) {
	if f := strings.Fields(text); len(f) > 3 {
		if _, all, ok := strings.Cut(f[3], "/"); ok {
			if n, err := strconv.ParseInt(all, 10, 64); err == nil {
				return n, nil
			}
		}
	}
	return 0, fmt.Errorf("cannot count processes: unknown format %q", text)
}

// Pressures say which of the node's resources run out.
type Pressures struct{ Memory, Disk, PID bool }

// Crossed compares what is left with the thresholds.
func (l Left) Crossed() Pressures {
	short := func(left, all int64, percent int64) bool { return all > 0 && left*100 < all*percent }
	return Pressures{
		Memory: l.Memory < leastMemory,
		Disk: short(l.Node.Bytes, l.Node.Size, leastNodeBytes) || short(l.Node.Inodes, l.Node.InodesSize, leastInodes) ||
			short(l.Images.Bytes, l.Images.Size, leastImagesBytes) || short(l.Images.Inodes, l.Images.InodesSize, leastInodes),
		PID: short(l.PIDs, l.PIDsAtMost, leastPIDs),
	}
}

// Held remembers when thresholds were crossed, so that conditions do not
// change with every file that is written and removed. The zero value has seen
// nothing.
type Held struct{ memory, disk, pid time.Time }

// Note takes in what was measured now and returns the conditions.
func (h *Held) Note(crossed Pressures, now time.Time) Pressures {
	hold := func(at *time.Time, crossed bool) bool {
		if crossed {
			*at = now
		}
		return !at.IsZero() && now.Sub(*at) < holdPressure
	}
	return Pressures{Memory: hold(&h.memory, crossed.Memory), Disk: hold(&h.disk, crossed.Disk), PID: hold(&h.pid, crossed.PID)}
}
