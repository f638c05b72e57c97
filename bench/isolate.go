package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	stageEnv = "LOCKSTEP_BENCH_STAGE"
	nameEnv  = "LOCKSTEP_BENCH_NAME"
	// address is the node's, on a bridge that leads nowhere.
	address = "192.168.77.1"
)

// name is of the node and of the bound's containerd namespace: what is below it in the cgroups is this run's.
var name = cmp.Or(os.Getenv(nameEnv), fmt.Sprintf("bench-%d", os.Getpid()))

// isolate returns in a process whose network, mounts, host name and processes are nobody else's. The caller's own
// process does not return: it waits for that one and exits as it did. The first process inside takes in the orphans;
// when it ends, the kernel ends all others.
func isolate() {
	switch os.Getenv(stageEnv) {
	case "":
		if os.Getuid() != 0 {
			fmt.Fprintln(os.Stderr, "bench: cannot measure: it needs root, for network namespaces and containers")
			os.Exit(1)
		}
		code := again("first", unix.CLONE_NEWNET|unix.CLONE_NEWNS|unix.CLONE_NEWUTS|unix.CLONE_NEWPID)
		removeCgroups()
		os.Exit(code)
	case "first":
		if err := furnish(); err != nil {
			fmt.Fprintln(os.Stderr, "bench: cannot make namespaces:", err)
			os.Exit(1)
		}
		os.Exit(again("second", 0))
	}
}

// again runs this program in new namespaces and returns its exit code. Signals that ask for the end are for it alone.
func again(stage string, namespaces uintptr) int {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), stageEnv+"="+stage, nameEnv+"="+name)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces, Setpgid: true}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "bench: cannot start in namespaces:", err)
		return 1
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 1
		case pid == cmd.Process.Pid && status.Exited():
			return status.ExitStatus()
		case pid == cmd.Process.Pid && status.Signaled():
			return 128 + int(status.Signal())
		}
	}
}

// furnish makes the new namespaces a machine without a way out.
func furnish() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("cannot mount /proc: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("cannot mount /run: %w", err)
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "uplink"}}
	if err := netlink.LinkAdd(bridge); err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(address + "/24")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(bridge, addr); err != nil {
		return err
	}
	return netlink.LinkSetUp(bridge)
}

// removeCgroups removes what an interrupted run left.
func removeCgroups() {
	var dirs []string
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && slices.Contains(strings.Split(path, "/"), name) {
			dirs = append(dirs, path)
		}
		return nil
	})
	for _, dir := range slices.Backward(dirs) {
		_ = os.Remove(dir)
	}
}
