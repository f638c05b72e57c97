// Package process looks at and ends processes that outlive who started them.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/internal/sleep"
)

// look is how long a wait for a process lasts before its context is looked at.
const look = 500 * time.Millisecond

// Kill kills a process if it still is what the caller took it for: still is asked when its number can pass to no other
// process any more. It says whether it was killed.
func Kill(pid int, still func() bool) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ENOSYS) {
		return still() && unix.Kill(pid, unix.SIGKILL) == nil // before Linux 5.3 there is nothing better
	}
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return still() && unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil
}

// Wait blocks until a process has ended, reaped or not, or ctx has; then it returns ctx's error. A process that is
// absent has ended.
func Wait(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err == nil {
		defer unix.Close(fd)
	}
	for ctx.Err() == nil {
		if err == nil {
			// It tells only when all threads have ended: the first may long be a zombie while another still has the
			// process's files open. An error, as of a signal that came, is a reason to look.
			if n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(look.Milliseconds())); n > 0 {
				break
			}
			continue
		}
		if !Alive(pid) {
			break
		}
		sleep.For(ctx, look)
	}
	return ctx.Err()
}

// Arguments are the words of a process's command line; none if it has ended.
func Arguments(pid int) []string {
	data, _ := os.ReadFile(file(pid, "cmdline"))
	if len(data) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
}

// Session is a process's session; 0 if it has ended.
func Session(pid int) int { return number(pid, 3) }

// Dir is a process's working directory, if the path leads to it here too: the process may be in another mount namespace.
func Dir(pid int) (string, error) {
	link := file(pid, "cwd")
	dir, err := os.Readlink(link)
	if err != nil {
		return "", err
	}
	its, err := os.Stat(link)
	if err != nil {
		return "", err
	}
	if ours, err := os.Stat(dir); err != nil || !os.SameFile(its, ours) {
		return "", fmt.Errorf("process %d works at another %s", pid, dir)
	}
	return dir, nil
}

// Parent is a process's parent; 0 if it has ended.
func Parent(pid int) int { return number(pid, 1) }

// Reap has a started process's number given free when it ends. Nobody waits for that: the process may outlive this one,
// and is nobody's child then.
func Reap(cmd *exec.Cmd) {
	go func() { _ = cmd.Wait() }()
}

// Alive says whether a process exists and has not ended.
func Alive(pid int) bool { return stat(pid) != nil }

// number is one of the fields after the state; proc_pid_stat(5).
func number(pid, field int) int {
	fields := stat(pid)
	if len(fields) <= field {
		return 0
	}
	n, _ := strconv.Atoi(fields[field])
	return n
}

// stat has the fields of /proc/PID/stat from the state on; nil of one that has ended.
func stat(pid int) []string {
	data, err := os.ReadFile(file(pid, "stat"))
	if err != nil {
		return nil
	}
	// The name before them may have any characters.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) == 0 || fields[0] == "Z" || fields[0] == "X" {
		return nil
	}
	return fields
}

// All are the numbers of all processes.
func All() []int {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var pids []int
	for _, dir := range dirs {
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func file(pid int, name string) string { return filepath.Join("/proc", strconv.Itoa(pid), name) }

// SeesSame says whether a path leads a process where it leads us; of one that
// is absent, whether it would.
func SeesSame(pid int, path string) bool {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	theirs, err := os.Stat(filepath.Join(proc, "root", path))
	ours, ourErr := os.Stat(path)
	if err == nil && ourErr == nil {
		return os.SameFile(theirs, ours)
	}
	mounts, err := os.Readlink(filepath.Join(proc, "ns", "mnt"))
	own, ownErr := os.Readlink("/proc/self/ns/mnt")
	return err == nil && ownErr == nil && mounts == own
}
