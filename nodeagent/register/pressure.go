package register

import (
	"fmt"
	"os"
	"strconv"
	"strings"

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
