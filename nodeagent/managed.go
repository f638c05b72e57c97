package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// managedStart bounds how long a containerd of our own may take to listen.
const managedStart = 30 * time.Second

// managedConfig is a containerd without plugins that we do not use, in
// directories of its own.
func managedConfig(o Options) string {
	dir := filepath.Join(o.RunDir, "containerd")
	return fmt.Sprintf(`version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = %q
[ttrpc]
  address = %q
`, o.managedDir(), dir, filepath.Join(dir, "containerd.sock"), filepath.Join(dir, "containerd.sock.ttrpc"))
}

// startContainerd starts a containerd of our own unless it runs. It is in a
// session of its own, so that it outlives the agent.
func startContainerd(ctx context.Context, o Options) error {
	socket := o.containerdSocket()
	if answers(socket) {
		return nil
	}
	dir := filepath.Dir(socket)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return fmt.Errorf("cannot start containerd: %w", err)
	}
	config := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(config, []byte(managedConfig(o)), 0o600); err != nil {
		return fmt.Errorf("cannot start containerd: %w", err)
	}
	log, err := os.OpenFile(filepath.Join(dir, "containerd.log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("cannot start containerd: %w", err)
	}
	defer log.Close()
	cmd := exec.Command("containerd", "--config", config)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start containerd: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // ends with containerd, which outlives us
	if err := os.WriteFile(pidFile(o), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
		return fmt.Errorf("cannot start containerd: %w", err)
	}
	deadline := time.After(managedStart)
	for !answers(socket) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-ended:
			return fmt.Errorf("cannot start containerd: it ended (%v), see %s", err, log.Name())
		case <-deadline:
			return fmt.Errorf("cannot start containerd: it does not listen, see %s", log.Name())
		case <-time.After(20 * time.Millisecond): // it listens within half a second
		}
	}
	return nil
}

func pidFile(o Options) string { return filepath.Join(o.RunDir, "containerd", "containerd.pid") }

func answers(socket string) bool {
	c, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// stopContainerd ends the containerd of our own; without one it does nothing.
func stopContainerd(ctx context.Context, o Options) error {
	data, err := os.ReadFile(pidFile(o))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot stop containerd: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return fmt.Errorf("cannot stop containerd: %w", err)
	}
	// The number may have passed to another process since.
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if !strings.Contains(string(line), filepath.Join(o.RunDir, "containerd")) {
		return nil
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("cannot stop containerd: %w", err)
	}
	deadline := time.After(10 * time.Second)
	for {
		if syscall.Kill(pid, 0) != nil || zombie(pid) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline:
			return errors.Join(errors.New("cannot stop containerd in time: killed it"), syscall.Kill(pid, syscall.SIGKILL))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func zombie(pid int) bool {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, after, ok := strings.Cut(string(data), ") ")
	return ok && strings.HasPrefix(after, "Z")
}
