package runtime

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"lockstep/nodeagent/beneath"
	"lockstep/nodeagent/process"
)

const (
	// StateDir is where shims listen and runc keeps what it knows, wherever
	// containerd's own folders are, which are there too unless moved.
	StateDir = "/run/containerd"
	// taskFolder has a namespace's bundles below containerd's state folder, and
	// their working directories below its root.
	taskFolder = "io.containerd.runtime.v2.task"
)

// DropRemains removes what killed shims left of containers and pods that are
// gone, by the names the shims were started for: one that containerd never met,
// as its starter was killed; sockets; of containers their bundles with what is
// mounted in them, and what runc knows. containerd gives its own cleaning a few
// seconds and does not try again. A container of which containerd has a task is
// an error, and so is a shim that still has processes.
func (r *Runtime) DropRemains(ctx context.Context, names []string) error {
	var errs []error
	folders := r.folders(ctx)
	for _, name := range names {
		if err := endShim(ctx, ShimSocket(r.opts.Address, name)); err != nil {
			errs = append(errs, fmt.Errorf("cannot end shim of %s: %w", short(name), err))
			continue
		}
		errs = append(errs, r.DropSockets([]string{name}, 0))
		if err := r.dropContainer(ctx, folders, name); err != nil {
			errs = append(errs, fmt.Errorf("cannot remove what is left of container %s: %w", short(name), err))
		}
	}
	return errors.Join(errs...)
}

// dropContainer asks containerd only where something is left: the usual case costs a look or two.
func (r *Runtime) dropContainer(ctx context.Context, folders []string, id string) error {
	var left []string
	for _, dir := range folders {
		path := filepath.Join(dir, id)
		if _, err := os.Lstat(path); err == nil {
			left = append(left, path)
		}
	}
	if len(left) == 0 {
		return nil
	}
	ctx, cancel := call(ctx, callTimeout)
	defer cancel()
	task, err := r.task(ctx, id)
	if err != nil {
		return err
	}
	if task != nil {
		return errors.New("containerd has a task of it")
	}
	var errs []error
	for _, path := range left {
		errs = append(errs, dropBundle(ctx, path))
	}
	return errors.Join(errs...)
}

// dropBundle removes a bundle with its working directory, after what is mounted in it: a mount that cannot go keeps all,
// so that nothing of a container's files is removed through it. A folder that is not a bundle goes too.
func dropBundle(ctx context.Context, path string) error {
	if err := mount.UnmountRecursive(filepath.Join(path, "rootfs"), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return err
	}
	if work, err := os.Readlink(filepath.Join(path, "work")); err == nil && isTask(filepath.Dir(work)) {
		if err := beneath.RemoveAll(ctx, work); err != nil {
			return err
		}
	}
	return beneath.RemoveAll(ctx, path)
}

// endTime is how long a shim may take to end by itself, which it does in milliseconds when its last container is gone.
const endTime = 2 * time.Second

// endShim ends the shim that listens on a socket, if one does.
func endShim(ctx context.Context, socket string) error {
	conn, err := net.DialTimeout("unix", socket, answerTimeout)
	if err != nil {
		return nil
	}
	conn.Close()
	pid := listener(socket)
	if pid == 0 {
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	if process.Wait(wait, pid) == nil {
		return nil
	}
	for _, child := range process.All() {
		if process.Parent(child) == pid {
			return fmt.Errorf("process %d is its child", child)
		}
	}
	if process.Kill(pid, func() bool { return listener(socket) == pid }) {
		return process.Wait(ctx, pid)
	}
	return ctx.Err()
}

// accepting is the flag of a socket that is listened on: __SO_ACCEPTCON.
const accepting = "00010000"

// listener is the shim that has a socket open; 0 if none has. Who made a socket is another process, which has ended.
func listener(socket string) int {
	list, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return 0
	}
	link := ""
	for line := range strings.Lines(string(list)) { // number, references, protocol, flags, type, state, inode, path
		if f := strings.Fields(line); len(f) == 8 && f[3] == accepting && f[7] == socket {
			link = "socket:[" + f[6] + "]"
			break
		}
	}
	if link == "" {
		return 0
	}
	for _, pid := range process.All() {
		if !IsShim(process.Arguments(pid)) {
			continue
		}
		open, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, fd := range open {
			if to, err := os.Readlink(fd); err == nil && to == link {
				return pid
			}
		}
	}
	return 0
}

// IsShim says whether a process with that command line is a shim, of whichever containerd.
func IsShim(args []string) bool {
	return len(args) > 0 && strings.HasPrefix(filepath.Base(args[0]), "containerd-shim-")
}

// isTask says whether a path is where some containerd keeps bundles of ours, or their working directories.
func isTask(path string) bool {
	return filepath.Base(path) == Namespace && filepath.Base(filepath.Dir(path)) == taskFolder
}

// folders are those in which something of a container may be left: what runc knows, and bundles. Where they are containerd
// does not say; a shim's working directory tells, and so does a mount in a bundle.
func (r *Runtime) folders(ctx context.Context) []string {
	found := map[string]bool{filepath.Join(StateDir, "runc", Namespace): true, filepath.Join(StateDir, taskFolder, Namespace): true}
	if r.opts.State != "" {
		found[filepath.Join(r.opts.State, taskFolder, Namespace)] = true
	}
	if dir := r.seen.Load(); dir != nil {
		found[*dir] = true
	} else {
		_, _ = mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
			if dir, isRoot := strings.CutSuffix(m.Mountpoint, "/rootfs"); isRoot && isTask(filepath.Dir(dir)) {
				found[filepath.Dir(dir)] = true
			}
			return true, ctx.Err() != nil
		})
	}
	return slices.Collect(maps.Keys(found))
}

// see learns where bundles are from a container's process, whose parent is its shim.
func (r *Runtime) see(pid uint32) {
	if pid == 0 || r.seen.Load() != nil {
		return
	}
	cwd, err := process.Dir(process.Parent(int(pid)))
	if err == nil && isTask(filepath.Dir(cwd)) {
		dir := filepath.Dir(cwd)
		r.seen.Store(&dir)
	}
}
