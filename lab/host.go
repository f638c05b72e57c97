package lab

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lockstep/internal/sleep"
	"lockstep/internal/thread"
)

type role string

const (
	roleHub    role = "hub"
	roleServer role = "server"
	roleAgent  role = "agent"
)

// Host is one machine of the lab.
type Host struct {
	Name string `json:"name"`
	Role role   `json:"role"`
	// Addr is the host's address on the lab's network.
	Addr string `json:"addr"`
	// Dir is the host's disk: what a reboot keeps.
	Dir string `json:"dir"`
	// Holder keeps the host's namespaces alive.
	Holder process `json:"holder"`
	// Services are the programs that run on it, by name: hub, daemon, containerd, agent.
	Services map[string]process `json:"services"`
	// Skew is how far its clock is ahead of the machine's, or, below zero, behind.
	Skew time.Duration `json:"skew,omitempty"`
	// Lab is the lab's folder.
	Lab string `json:"lab"`
}

// mark is the variable in the environment of every process that a lab starts. It names the lab's folder.
const mark = "LOCKSTEP_LAB"

func environ(dir string) []string { return append(os.Environ(), mark+"="+dir) }

func (l *Lab) environ() []string { return environ(l.dir) }

// process is a process that may be gone, told apart from a later one with the same id by its start time.
type process struct {
	PID   int    `json:"pid,omitempty"`
	Start uint64 `json:"start,omitempty"` // clock ticks after boot, field 22 of /proc/PID/stat
}

func newProcess(pid int) process { return process{PID: pid, Start: startTime(pid)} }

func (p process) alive() bool { return p.PID != 0 && p.Start != 0 && startTime(p.PID) == p.Start }

// signal sends a signal to the process, if it is still the one that was started.
func (p process) signal(s syscall.Signal) error {
	if !p.alive() {
		return nil
	}
	if err := syscall.Kill(p.PID, s); err != nil && err != syscall.ESRCH {
		return fmt.Errorf("cannot signal process %d: %w", p.PID, err)
	}
	return nil
}

// startTime returns 0 for a process that is gone or a zombie. One that is a zombie although some of its threads have not
// ended yet is neither: it still has its files, and its locks on them.
func startTime(pid int) uint64 {
	state, start := stat(pid)
	if state == "X" || state == "Z" && threads(pid) <= 1 {
		return 0
	}
	return start
}

// stat returns a process' state and start time; empty and 0: there is none.
func stat(pid int) (state string, start uint64) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", 0
	}
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	if len(fields) < 20 {
		return "", 0
	}
	start, _ = strconv.ParseUint(fields[19], 10, 64)
	return fields[0], start
}

func threads(pid int) int {
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid)) // gone: none
	return len(tasks)
}

// holderArg is the hidden argument with which lockstep-lab runs again as a holder: HOLDER DIR NAME.
const holderArg = "_holder"

// RunHolder is what a holder process does: it prepares its mount namespace, says so on standard output, and waits to be
// killed. Its arguments are the lab's folder, the host's name, and "switch" for the namespace with the bridge.
func RunHolder(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("cannot hold a host: want DIR NAME, got %d arguments", len(args))
	}
	dir, name := args[0], args[1]
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("cannot name host %s: %w", name, err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("cannot make the mounts of host %s private: %w", name, err)
	}
	if name != switchName {
		if err := mountHost(filepath.Join(dir, "hosts", name)); err != nil {
			return fmt.Errorf("cannot mount the disks of host %s: %w", name, err)
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("cannot find the loopback link of host %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("cannot bring up the loopback link of host %s: %w", name, err)
	}
	fmt.Println("ready")
	select {}
}

// mountHost gives the host a /run of its own, which a reboot empties, and name resolution that leads nowhere.
func mountHost(dir string) error {
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755,size=256m"); err != nil {
		return err
	}
	for _, d := range []string{"/run/netns", "/run/lock"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	resolv := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(resolv, []byte("# a lab has no name server outside\n"), 0o644); err != nil {
		return err
	}
	target, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err != nil {
		return nil //nolint:nilerr // a machine without the file has nothing to hide
	}
	return unix.Mount(resolv, target, "", unix.MS_BIND, "")
}

// startHolder starts a holder in new namespaces and returns once it is ready.
func (l *Lab) startHolder(ctx context.Context, name string) (process, error) {
	cmd := exec.Command(l.state.Options.Self, holderArg, l.dir, name)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS,
		Setsid:     true,
	}
	cmd.Env = l.environ()
	complaints, err := os.OpenFile(filepath.Join(l.dir, "holders.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return process{}, fmt.Errorf("cannot start host %s: %w", name, err)
	}
	defer func() { _ = complaints.Close() }()
	cmd.Stderr = complaints
	out, err := cmd.StdoutPipe()
	if err != nil {
		return process{}, fmt.Errorf("cannot start host %s: %w", name, err)
	}
	if err := cmd.Start(); err != nil {
		return process{}, fmt.Errorf("cannot start host %s: %w", name, err)
	}
	ready := make(chan error, 1)
	go func() {
		line := make([]byte, 6)
		_, err := io.ReadFull(out, line)
		ready <- err
		_ = cmd.Wait()
	}()
	p := newProcess(cmd.Process.Pid)
	select {
	case err := <-ready:
		if err != nil {
			return p, fmt.Errorf("cannot start host %s: its holder ended early: %s", name, tail(complaints.Name()))
		}
	case <-ctx.Done():
		return p, fmt.Errorf("cannot start host %s: %w", name, ctx.Err())
	}
	return p, nil
}

// kill ends the process at once and returns when it is gone.
func (p process) kill(ctx context.Context) error {
	return killAll(ctx, func() []process { return []process{p} })
}

func (l *Lab) addHost(ctx context.Context, name string, r role, number int) (*Host, error) {
	base := network.Addr().As4()
	base[3] = byte(number)
	h := &Host{
		Name: name, Role: r, Addr: fmt.Sprintf("%d.%d.%d.%d", base[0], base[1], base[2], base[3]),
		Dir: filepath.Join(l.dir, "hosts", name), Services: map[string]process{}, Lab: l.dir,
	}
	for _, d := range []string{"log", "data", "containerd", "certs.d/_default", "bin"} {
		if err := os.MkdirAll(filepath.Join(h.Dir, d), 0o755); err != nil {
			return nil, fmt.Errorf("cannot make the disk of host %s: %w", name, err)
		}
	}
	if err := h.secondRuntime(); err != nil {
		return nil, fmt.Errorf("cannot give host %s a second runtime: %w", name, err)
	}
	l.state.Hosts = append(l.state.Hosts, h)
	if r != roleHub {
		if err := l.mountDisk(h); err != nil {
			return nil, err
		}
	}
	return h, l.boot(ctx, h)
}

// secondRuntime gives a host what RuntimeClasses name by the handler sandboxed: runc's shim by another name.
func (h *Host) secondRuntime() error {
	shim, err := exec.LookPath("containerd-shim-runc-v2")
	if err != nil {
		return err
	}
	return os.Symlink(shim, filepath.Join(h.Dir, "bin", "containerd-shim-sandboxed-v2"))
}

// boot makes the host's namespaces and its link to the bridge, with nothing that a link or a clock had suffered.
func (l *Lab) boot(ctx context.Context, h *Host) error {
	holder, err := l.startHolder(ctx, h.Name)
	h.Holder, h.Skew = holder, 0
	if saved := l.save(); err == nil {
		err = saved
	}
	if err != nil {
		return err
	}
	if err := l.plug(h); err != nil {
		return err
	}
	return l.join(h)
}

// Command returns a command that runs on the host, in all its namespaces, with the machine's environment, in the root
// folder; see CommandIn.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return h.CommandIn(ctx, "/", name, args...)
}

// CommandIn returns a command that runs on the host in a folder, which is the machine's except below /run. Programs that only
// the host has come first.
func (h *Host) CommandIn(ctx context.Context, folder, name string, args ...string) *exec.Cmd {
	enter := []string{"-t", strconv.Itoa(h.Holder.PID), "-m", "-n", "-u", "--wdns=" + folder, "--", name}
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
	cmd.Env = append(environ(h.Lab), "PATH="+filepath.Join(h.Dir, "bin")+":"+os.Getenv("PATH"))
	return cmd
}

// Run runs a command on the host and returns what it printed on both outputs.
func (h *Host) Run(ctx context.Context, name string, args ...string) (string, error) {
	out, err := h.Command(ctx, name, args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("cannot run %s on %s: %w: %s", name, h.Name, err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// Do calls f on a thread that is in the host's network namespace: sockets made in f belong to the host.
func (h *Host) Do(f func() error) error {
	return thread.Own(func() error {
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", h.Holder.PID), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("cannot enter host %s: %w", h.Name, err)
		}
		defer func() { _ = unix.Close(fd) }()
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("cannot enter host %s: %w", h.Name, err)
		}
		return f()
	})
}

// processes returns every process of the host: those in its mount namespace, which is among the spaces, all their
// descendants, and what is in its pods' control groups.
func (h *Host) processes(in spaces) []process {
	pods := cgroupProcesses(h.Name)
	return descendants(func(pid int) bool { return in.have(pid) || slices.Contains(pods, pid) })
}

// spaces are mount namespaces by their names, held open: a process may still be started in one after those it was known
// by have been killed, and the name of one that is gone may be given to another.
type spaces map[string]*os.File

// add holds the mount namespace of a process, unless the process is gone.
func (s spaces) add(pid int) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		return
	}
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil || s[name] != nil {
		_ = f.Close()
		return
	}
	s[name] = f
}

func (s spaces) have(pid int) bool { return s[mountNamespace(pid)] != nil }

func (s spaces) close() {
	for _, f := range s {
		_ = f.Close()
	}
}

// mountNamespace names the mount namespace of a process; empty: it is gone.
func mountNamespace(pid int) string {
	name, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		return ""
	}
	return name
}

// descendants returns the processes that root accepts, and every descendant of one.
func descendants(root func(pid int) bool) []process {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	children := map[int][]int{}
	var queue []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		children[parent(pid)] = append(children[parent(pid)], pid)
		if root(pid) {
			queue = append(queue, pid)
		}
	}
	seen := map[int]bool{}
	var out []process
	for len(queue) > 0 {
		pid := queue[0]
		queue = queue[1:]
		if seen[pid] {
			continue
		}
		seen[pid] = true
		out = append(out, newProcess(pid))
		queue = append(queue, children[pid]...)
	}
	return out
}

func parent(pid int) int {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return -1
	}
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	if len(fields) < 2 {
		return -1
	}
	ppid, _ := strconv.Atoi(fields[1])
	return ppid
}

// killAll kills the processes and returns once none is alive, and no trace of one in /proc if their parents reap them.
func killAll(ctx context.Context, find func() []process) error {
	killed := map[process]bool{}
	for {
		left := 0
		for _, p := range find() {
			if p.PID != os.Getpid() && p.alive() {
				left++
				killed[p] = true
				_ = p.signal(syscall.SIGKILL)
			}
		}
		if left == 0 {
			awaitReaped(ctx, killed)
			return nil
		}
		if !sleep.For(ctx, 20*time.Millisecond) {
			return fmt.Errorf("cannot end %d processes: %w", left, ctx.Err())
		}
	}
}

// awaitReaped waits until the killed processes are no zombies either, or a second: a parent outside the lab may be slow.
func awaitReaped(ctx context.Context, killed map[process]bool) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for p := range killed {
		for _, start := stat(p.PID); start == p.Start; _, start = stat(p.PID) {
			if !sleep.For(ctx, 5*time.Millisecond) {
				return
			}
		}
	}
}
