// Package companion starts the small processes that work beside the agent and outlive it.
package companion

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"lockstep/nodeagent/process"
)

const (
	// startTimeout bounds the start of a companion, a handover's wait for the old one included.
	startTimeout = 15 * time.Second
	// maxComplaints is the size past which the companions' own log begins anew when one starts.
	maxComplaints = 1 << 20
)

// Program says what is started.
type Program struct {
	// Name is the first argument, which makes the program the companion; its directory has the name too.
	Name string
	// RunDir is the agent's run directory; there is one companion of a name for each.
	RunDir string
	// Executable is the program; empty means this one. It must import the companion's package early.
	Executable string
	// Cgroup is the path under the cgroup mounts that it is put into; it must not lie below the agent's, whose end would be
	// the companion's. Empty means that it stays where the agent is.
	Cgroup string
	// Build is the program's version. A running companion of another build is to be replaced.
	Build string
	// For is the path under the cgroup mounts below which everything runs that the companion is for: once that has no
	// process, SIGTERM ends the companion. Empty means that SIGTERM never does.
	For string
}

func (p Program) dir() string { return filepath.Join(p.RunDir, p.Name) }

// Dial connects to the companion that runs.
func (p Program) Dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", filepath.Join(p.dir(), "sock"))
}

// Start starts the companion and returns when it is ready, having taken over from one that ran.
func (p Program) Start(ctx context.Context) error {
	if err := p.start(ctx); err != nil {
		return fmt.Errorf("cannot start %s: %w", p.Name, err)
	}
	return nil
}

func (p Program) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	exe := p.Executable
	if exe == "" {
		var err error
		if exe, err = os.Executable(); err != nil {
			return err
		}
	}
	complaints, err := p.openComplaints()
	if err != nil {
		return err
	}
	defer complaints.Close()
	ready, out, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	cmd := exec.Command(exe, p.Name, p.RunDir, p.Build, p.For)
	cmd.Dir = "/"
	// Two threads of Go are plenty; the runtime's memory grows with their number.
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "GOMAXPROCS=2"}
	cmd.Stdout, cmd.Stderr = out, complaints
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	out.Close()
	if err != nil {
		return err
	}
	process.Reap(cmd)
	if err := enter(p.Cgroup, cmd.Process.Pid); err != nil {
		_ = cmd.Process.Kill()
		return fmt.Errorf("cannot put it into cgroup %s: %w", p.Cgroup, err)
	}
	// Under memory pressure any container is a better victim than what all containers need.
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", cmd.Process.Pid), []byte("-999"), 0)

	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	line, err := bufio.NewReader(ready).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != "ready" {
		_ = cmd.Process.Kill()
		return fmt.Errorf("it did not become ready: %s", lastComplaint(complaints.Name()))
	}
	return nil
}

// lastComplaint is the last line in the file.
func lastComplaint(name string) string {
	text, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}

// openComplaints opens the file that companions' standard error goes to: never ours, which may be a pipe whose end is the
// agent's.
func (p Program) openComplaints() (*os.File, error) {
	if err := os.MkdirAll(p.dir(), 0o700); err != nil {
		return nil, err
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_APPEND
	name := filepath.Join(p.dir(), "log")
	if info, err := os.Stat(name); err == nil && info.Size() > maxComplaints {
		flags |= os.O_TRUNC
	}
	return os.OpenFile(name, flags, 0o600)
}
