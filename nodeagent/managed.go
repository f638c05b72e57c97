package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"lockstep/nodeagent/process"
	"lockstep/nodeagent/runtime"
	"lockstep/nodeagent/supervise"
)

// managedStart bounds how long a containerd of our own may take to listen,
// managedStop how long it may take to end.
const (
	managedStart = 30 * time.Second
	managedStop  = 10 * time.Second
)

// managedConfig is a containerd without plugins that we do not use, in
// directories of its own.
func managedConfig(o Options) string {
	dir := filepath.Join(o.RunDir, "containerd")
	return fmt.Sprintf(`version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = %q
[ttrpc]
  address = %q
`, o.managedDir(), dir, filepath.Join(dir, "containerd.sock"), filepath.Join(dir, "containerd.sock.ttrpc"))
}

// startContainerd starts a containerd of our own unless it runs, and returns
// its number when it listens. It is in a session of its own, so that it outlives
// the agent. One that runs and hangs is killed for another; containers and their
// shims do not notice.
func startContainerd(ctx context.Context, o Options) (int, error) {
	pid, socket := findContainerd(o), o.containerdSocket()
	if pid != 0 {
		err := supervise.Ask(ctx, o.answerEvery, func(ctx context.Context) error { return asked(ctx, o) })
		if err == nil || ctx.Err() != nil {
			return pid, ctx.Err()
		}
		if process.Kill(pid, func() bool { return findContainerd(o) == pid }) {
			o.Log.Warn("containerd hangs: killed it, and starting another", "error", err)
			if err := process.Wait(ctx, pid); err != nil {
				return 0, err
			}
		}
		pid = findContainerd(o)
	}
	if pid == 0 {
		var err error
		if pid, err = spawnContainerd(o); err != nil {
			return 0, fmt.Errorf("cannot start containerd: %w", err)
		}
	}
	deadline := time.After(managedStart)
	for !answers(socket) {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-deadline:
			return 0, fmt.Errorf("cannot start containerd: it does not listen, see %s", managedLog(o))
		case <-time.After(20 * time.Millisecond): // it listens within half a second
		}
		if !process.Alive(pid) {
			return 0, fmt.Errorf("cannot start containerd: it ended, see %s", managedLog(o))
		}
	}
	return pid, nil
}

// spawnContainerd starts the process. The log of the one before is kept: it
// says why that ended.
func spawnContainerd(o Options) (int, error) {
	config := managedConfigFile(o)
	if err := os.MkdirAll(filepath.Dir(config), 0o711); err != nil {
		return 0, err
	}
	if err := os.WriteFile(config, []byte(managedConfig(o)), 0o600); err != nil {
		return 0, err
	}
	if err := os.Rename(managedLog(o), managedLog(o)+".1"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	log, err := os.OpenFile(managedLog(o), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	cmd := exec.Command("containerd", "--config", config)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	process.Reap(cmd)
	return cmd.Process.Pid, nil
}

// containerdState is the state folder of the containerd of our own; empty where another's is used, which does not say.
func (o Options) containerdState() string {
	if o.Containerd != Managed {
		return ""
	}
	return filepath.Join(o.RunDir, "containerd")
}

func managedConfigFile(o Options) string { return filepath.Join(o.RunDir, "containerd", "config.toml") }
func managedLog(o Options) string        { return filepath.Join(o.RunDir, "containerd", "containerd.log") }

// findContainerd finds the containerd of our own by its command line; 0 if it
// does not run.
func findContainerd(o Options) int {
	config := managedConfigFile(o)
	for _, pid := range process.All() {
		args := process.Arguments(pid)
		if len(args) == 3 && filepath.Base(args[0]) == "containerd" && args[1] == "--config" && args[2] == config &&
			process.Alive(pid) && process.SeesSame(pid, config) {
			return pid
		}
	}
	return 0
}

// asked returns an error if the containerd of our own does not answer in time.
func asked(ctx context.Context, o Options) error {
	rt, err := runtime.Open(runtime.Options{Address: o.containerdSocket(), Node: o.NodeName})
	if err != nil {
		return err
	}
	defer rt.Close()
	_, err = rt.Version(ctx)
	return err
}

// keepContainerd starts the containerd of our own again whenever it ends or
// hangs.
func (a *Agent) keepContainerd(ctx context.Context) error {
	return supervise.Keep(ctx, supervise.Service{
		Start:   func(ctx context.Context) (int, error) { return startContainerd(ctx, a.opts) },
		Answers: func(ctx context.Context) error { return asked(ctx, a.opts) },
		Every:   a.opts.answerEvery,
		Hangs:   func(err error) { a.log.Warn("containerd hangs, killing it", "error", err) },
		Ended:   func() { a.log.Warn("containerd has ended, starting it again") },
		Started: func() {
			a.log.Info("containerd was started again")
			a.drift("ContainerdRestarted", "containerd ended and was started again")
		},
		Failed: func(err error, again time.Duration) {
			a.log.Warn("cannot run containerd", "error", err, "again", again)
		},
	})
}

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
	pid := findContainerd(o)
	if pid == 0 {
		return nil
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("cannot stop containerd: %w", err)
	}
	wait, cancel := context.WithTimeout(ctx, managedStop)
	defer cancel()
	if process.Wait(wait, pid) == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(errors.New("cannot stop containerd in time: killed it"), syscall.Kill(pid, syscall.SIGKILL))
}
