package volumes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"lockstep/nodeagent/beneath"
)

const (
	// diskTimeout bounds each program that works on a disk: to repair the file system of a large one may take that long.
	diskTimeout = 30 * time.Minute
	// maxOutput bounds in bytes what is kept of what a program prints: of a disk that somebody else has written, fsck has a line for
	// each of millions of files.
	maxOutput = 64 << 10
	// toolEnd is how long what a program has started may hold its output after it was killed.
	toolEnd = time.Second
	// defaultFS is the file system of a disk whose volume names none; the kubelet's.
	defaultFS = "ext4"
	// emptyBytes is how much of a disk must be zero for it to be empty: file systems, partition tables and what databases write first
	// begin there.
	emptyBytes = 1 << 20
	// blkidNothing is what blkid ends with when it has found nothing that it knows.
	blkidNothing = 2
	// fsckUncorrected is what fsck ends with when it leaves errors.
	fsckUncorrected = 4
)

// disks mounts the file systems of block devices. Two pods of one disk follow each other: only the first may find it empty.
type disks struct {
	locks sync.Map // of *sync.Mutex by device number, one for each disk of the machine that was ever mounted
}

// mount mounts the file system of a block device at dir, unless that is done. An empty disk gets one first, as with the kubelet, and one
// that was written to is repaired; what is on a disk that nobody knows is never written over.
func (d *disks) mount(ctx context.Context, device, dir, kind string, options []string, readOnly bool) error {
	mounted, err := isMounted(dir)
	if err != nil || mounted {
		return err
	}
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil {
		return err
	}
	lock, _ := d.locks.LoadOrStore(st.Rdev, &sync.Mutex{})
	lock.(*sync.Mutex).Lock()
	defer lock.(*sync.Mutex).Unlock()
	if kind == "" {
		kind = defaultFS
	}
	err = mountDisk(ctx, device, uint64(st.Rdev), dir, kind, options, readOnly)
	if err != nil {
		return fmt.Errorf("local: failed to mount device %s at %s (fstype: %s), error %w", device, dir, kind, err)
	}
	return nil
}

func mountDisk(ctx context.Context, device string, number uint64, dir, kind string, options []string, readOnly bool) error {
	used, writable, err := mountedElsewhere(number)
	if err != nil {
		return err
	}
	if used && !writable && !readOnly {
		return fmt.Errorf("disk %s is mounted read-only", device)
	}
	if !used {
		if err := prepareDisk(ctx, device, kind, readOnly); err != nil {
			return err
		}
	}
	// What is mounted for writing can be mounted again only so; containers see their mounts of it read-only as they are to.
	if readOnly && (!used || !writable) {
		options = append(slices.Clone(options), "ro")
	}
	if err := makeDir(ctx, dir, beneath.Attr{Mode: 0o750}); err != nil {
		return err
	}
	args := []string{"-t", kind, "-o", strings.Join(append(slices.Clone(options), "defaults"), ","), device, dir}
	out, err := tool(ctx, diskTimeout, "mount", args...)
	if err == nil {
		return nil
	}
	return errors.Join(mountFailed(err, args, out), unmountBelow(context.WithoutCancel(ctx), dir))
}

// mountedElsewhere says whether a device is mounted anywhere, and whether for writing.
func mountedElsewhere(number uint64) (used, writable bool, err error) {
	all, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		return unix.Mkdev(uint32(i.Major), uint32(i.Minor)) != number, false
	})
	for _, i := range all {
		writable = writable || slices.Contains(strings.Split(i.VFSOptions, ","), "rw")
	}
	return len(all) > 0, writable, err
}

// prepareDisk makes a file system on a disk that is empty, and repairs that of one that is to be written to.
func prepareDisk(ctx context.Context, device, kind string, readOnly bool) error {
	found, err := diskFormat(ctx, device)
	switch {
	case err != nil:
		return fmt.Errorf("failed to get disk format of disk %s: %w", device, err)
	case found == "" && readOnly:
		return fmt.Errorf("cannot mount unformatted disk %s as we are manipulating it in read-only mode", device)
	case found == "":
		return format(ctx, device, kind)
	case readOnly:
		return nil
	}
	return repair(ctx, device)
}

// diskFormat is what blkid finds on a disk; empty: nothing.
func diskFormat(ctx context.Context, device string) (string, error) {
	out, err := tool(ctx, diskTimeout, "blkid", "-p", "-s", "TYPE", "-s", "PTTYPE", "-o", "export", device)
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == blkidNothing {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return parseFormat(string(out))
}

// parseFormat reads what blkid exports: lines of NAME=value.
func parseFormat(out string) (found string, err error) {
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		name, value, ok := strings.Cut(line, "=")
		switch {
		case line == "":
		case !ok:
			return "", fmt.Errorf("blkid returns invalid output: %s", out)
		case name == "PTTYPE":
			return "unknown data, probably partitions", nil
		case name == "TYPE":
			found = value
		}
	}
	return found, nil
}

// format makes a file system on a disk that is empty, whatever blkid says: data without a signature, such as a database's, are data.
func format(ctx context.Context, device, kind string) error {
	if err := wantEmpty(device); err != nil {
		return err
	}
	args := []string{device}
	switch kind {
	case "ext3", "ext4":
		args = []string{"-F", "-m0", device}
	case "xfs":
		args = []string{"-f", device}
	}
	if out, err := tool(ctx, diskTimeout, "mkfs."+kind, args...); err != nil {
		return fmt.Errorf("format of disk %q failed: type:(%q) errcode:(%w) output:(%s)", device, kind, err, out)
	}
	return nil
}

// wantEmpty is an error for a disk that others use, or that has anything but zeros at its beginning.
func wantEmpty(device string) error {
	f, err := os.OpenFile(device, os.O_RDONLY|unix.O_EXCL, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	begin, err := io.ReadAll(io.LimitReader(f, emptyBytes))
	if err != nil {
		return err
	}
	if len(begin) == 0 {
		return fmt.Errorf("disk %s has no room", device)
	}
	if len(bytes.TrimLeft(begin, "\x00")) > 0 {
		return fmt.Errorf("disk %s has data, but no file system that is known, and is not formatted: if nobody needs them, "+
			"write zeros over its first MiB", device)
	}
	return nil
}

// repair has fsck repair what it does without a question, as a machine does when it starts.
func repair(ctx context.Context, device string) error {
	out, err := tool(ctx, diskTimeout, "fsck", "-a", device)
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == fsckUncorrected {
		return fmt.Errorf("'fsck' found errors on device %s but could not correct them: %s", device, out)
	}
	return ctx.Err() // without fsck, or where it knows no such file system, mount has the last word
}

// tool runs a program of the machine, and returns the beginning of what it has printed. It ends with its context, with all that it has
// started.
func tool(ctx context.Context, timeout time.Duration, name string, args ...string) ([]byte, error) {
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(bounded, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // with the helper that it starts, it can be ended
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = toolEnd
	out := beginning{}
	cmd.Stdout, cmd.Stderr = &out, &out // the same writer, which nobody else writes to meanwhile
	err := cmd.Run()
	if err != nil && errors.Is(bounded.Err(), context.DeadlineExceeded) && ctx.Err() == nil {
		err = fmt.Errorf("timed out after %v", timeout)
	}
	return out.kept, err
}

// beginning keeps the first maxOutput bytes that are written, and takes the rest.
type beginning struct{ kept []byte }

func (b *beginning) Write(p []byte) (int, error) {
	b.kept = append(b.kept, p[:min(len(p), maxOutput-len(b.kept))]...)
	return len(p), nil
}

// mountFailed has the kubelet's words.
func mountFailed(err error, args []string, out []byte) error {
	return fmt.Errorf("mount failed: %w\nMounting command: mount\nMounting arguments: %s\nOutput: %s\n", err, strings.Join(args, " "), out)
}
