package lab

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"lockstep/internal/sleep"
)

// Services by name, and the order in which a host starts them.
const (
	Containerd = "containerd"
	Agent      = "agent"
	Daemon     = "daemon"
	HubService = "hub"
)

func (h *Host) serviceNames() []string {
	switch h.Role {
	case roleHub:
		return []string{HubService}
	case roleServer:
		return []string{Daemon}
	default:
		return []string{Containerd, Agent}
	}
}

func (l *Lab) startServices(ctx context.Context, h *Host) error {
	for _, name := range h.serviceNames() {
		if err := l.start(ctx, h, name); err != nil {
			return err
		}
	}
	return nil
}

// Start starts a service of the host; one that runs already is left alone. It returns once the service can be talked to:
// containerd answers, the daemon says that it is ready, the hub has its images.
func (l *Lab) Start(ctx context.Context, h *Host, service string) error {
	return l.change(func() error { return l.start(ctx, h, service) })
}

func (l *Lab) start(ctx context.Context, h *Host, service string) error {
	if h.Services[service].alive() {
		return nil
	}
	if err := l.spawn(ctx, h, service); err != nil {
		return err
	}
	return l.await(ctx, h, service)
}

// spawn starts a service and does not wait for it.
func (l *Lab) spawn(ctx context.Context, h *Host, service string) error {
	name, args, err := l.commandLine(ctx, h, service)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(h.LogFile(service), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("cannot start %s on %s: %w", service, h.Name, err)
	}
	defer func() { _ = log.Close() }()
	cmd := h.Command(context.WithoutCancel(ctx), name, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start %s on %s: %w", service, h.Name, err)
	}
	reap(cmd)
	h.Services[service] = newProcess(cmd.Process.Pid)
	// At once: down must find the process even if this one ends before it is ready.
	if err := l.save(); err != nil {
		return err
	}
	return skewStarted(h, service)
}

// reap has a process's number given free when it ends, which may be after this program has.
func reap(cmd *exec.Cmd) {
	go func() { _ = cmd.Wait() }()
}

// LogFile is where a service of the host writes what it prints.
func (h *Host) LogFile(service string) string { return filepath.Join(h.Dir, "log", service+".log") }

// DataDir is lockstep's --data-dir on the host.
func (h *Host) DataDir() string { return filepath.Join(h.Dir, "data") }

func (l *Lab) commandLine(ctx context.Context, h *Host, service string) (string, []string, error) {
	o := l.state.Options
	switch service {
	case HubService:
		return o.Self, []string{hubArg, l.dir}, nil
	case Daemon:
		args := []string{
			"daemon", "--config", l.configFile(), "--data-dir", h.DataDir(), "--name", h.Name, "--cluster", "lab",
			"--listen", "0.0.0.0:6443", "--advertise", h.Addr, "--status-listen", "127.0.0.1:7070", "--log-level", o.LogLevel,
		}
		joining, err := l.joining(ctx, h)
		return o.Lockstep, append(args, joining...), err
	case Containerd:
		config := filepath.Join(h.Dir, "containerd", "config.toml")
		text := fmt.Sprintf(containerdConfig, filepath.Join(h.Dir, "containerd", "root"))
		if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
			return "", nil, fmt.Errorf("cannot configure containerd on %s: %w", h.Name, err)
		}
		return "containerd", []string{"--config", config}, nil
	case Agent:
		return l.agentCommandLine(ctx, h)
	}
	return "", nil, fmt.Errorf("cannot start %q on %s: it has %s", service, h.Name, strings.Join(h.serviceNames(), ", "))
}

// containerdConfig keeps state in the host's own /run and leaves out what pods here do not use.
const containerdConfig = `version = 2
root = %q
state = "/run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "/run/containerd/containerd.sock"
`

func (l *Lab) agentCommandLine(ctx context.Context, h *Host) (string, []string, error) {
	certs := filepath.Join(h.Dir, "certs.d")
	mirror := fmt.Sprintf("server = %q\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", registryURL, registryURL)
	if err := os.WriteFile(filepath.Join(certs, "_default", "hosts.toml"), []byte(mirror), 0o644); err != nil {
		return "", nil, fmt.Errorf("cannot configure the registry mirror of %s: %w", h.Name, err)
	}
	token, err := l.joinToken(ctx)
	if err != nil {
		return "", nil, err
	}
	return l.state.Options.Lockstep, []string{
		"agent", "--server", "https://" + l.firstServer().Addr + ":6443", "--token", token, "--node-name", h.Name,
		"--node-ip", h.Addr, "--data-dir", h.DataDir(), "--registry-config", certs,
		"--log-level", l.state.Options.LogLevel, "--eviction-hard", l.state.Options.Eviction, "--allowed-unsafe-sysctls", "kernel.msg*",
		"--resource", "example.org/dongle=example.org/dongle=0,example.org/dongle=1", "--resource", "example.org/seat=2",
	}, nil
}

// joining are the flags by which a server's daemon joins the others; none for one that has data, or is the first of all.
func (l *Lab) joining(ctx context.Context, h *Host) ([]string, error) {
	other := l.Server()
	if _, err := os.Stat(filepath.Join(h.DataDir(), "etcd", "member-data")); err == nil || other == h || !other.Services[Daemon].alive() {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	token, err := other.Command(ctx, l.state.Options.Lockstep, "server", "token", "--data-dir", other.DataDir()).Output()
	if err != nil {
		return nil, fmt.Errorf("cannot make a token for %s on %s: %w", h.Name, other.Name, withStderr(err))
	}
	file := filepath.Join(h.Dir, "server-token")
	return []string{"--join", "https://" + other.Addr + ":6443", "--token-file", file}, os.WriteFile(file, token, 0o600)
}

// joinTokenFile has the token that agents join with.
func (l *Lab) joinTokenFile() string { return filepath.Join(l.dir, "join-token") }

// joinToken makes a token for agents, or returns the lab's earlier one: an agent that has its certificate needs none,
// so that it can be started again while the server is away.
func (l *Lab) joinToken(ctx context.Context) (string, error) {
	path := l.joinTokenFile()
	if raw, err := os.ReadFile(path); err == nil {
		return strings.TrimSpace(string(raw)), nil
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	s := l.Server()
	out, err := s.Command(ctx, l.state.Options.Lockstep, "token", "create", "--data-dir", s.DataDir()).Output()
	if err != nil {
		return "", fmt.Errorf("cannot make a join token on %s: %w", s.Name, withStderr(err))
	}
	return strings.TrimSpace(string(out)), os.WriteFile(path, out, 0o600)
}

// await returns once the service can be talked to.
func (l *Lab) await(ctx context.Context, h *Host, service string) error {
	probe := l.probe(h, service)
	if probe == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	for {
		attempt, done := context.WithTimeout(ctx, 5*time.Second)
		err := probe(attempt)
		done()
		if err == nil {
			return nil
		}
		if !h.Services[service].alive() {
			return fmt.Errorf("cannot start %s on %s: it ended; its log %s ends with: %s", service, h.Name, h.LogFile(service),
				tail(h.LogFile(service)))
		}
		if !sleep.For(ctx, 20*time.Millisecond) {
			return fmt.Errorf("cannot reach %s on %s: %w", service, h.Name, err)
		}
	}
}

// probe returns what tells whether a service can be talked to; nil: nobody talks to it.
func (l *Lab) probe(h *Host, service string) func(context.Context) error {
	switch service {
	case Containerd:
		return func(ctx context.Context) error {
			_, err := h.Run(ctx, "ctr", "--address", "/run/containerd/containerd.sock", "version")
			return err
		}
	case Daemon:
		return func(ctx context.Context) error { return answers(ctx, h, "https://127.0.0.1:6443/readyz") }
	case HubService:
		return func(ctx context.Context) error { return answers(ctx, h, hubReadyURL) }
	}
	return nil
}

// answers says whether a GET on the host is answered with 200.
func answers(ctx context.Context, h *Host, url string) error {
	client := h.HTTP()
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 500))
		return fmt.Errorf("%s answers %s: %s", url, response.Status, strings.TrimSpace(string(text)))
	}
	return nil
}

// HTTP returns a client that connects from the host. It does not check certificates: who asks it wants to know whether a
// server inside the lab answers, and nothing but the lab's own hosts can be reached from there.
func (h *Host) HTTP() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext:     h.Dial,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
	}}
}

// Dial connects from the host.
func (h *Host) Dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	err = h.Do(func() error {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// Kill sends SIGKILL to a service of the host and returns once it is gone. Killing one that does not run changes nothing.
func (l *Lab) Kill(ctx context.Context, h *Host, service string) error {
	return l.end(h, "kill", service, func(p process) error { return p.kill(ctx) })
}

// Stop sends SIGTERM to a service of the host and returns once it is gone, or with ctx's error. Stopping one that does
// not run changes nothing.
func (l *Lab) Stop(ctx context.Context, h *Host, service string) error {
	return l.end(h, "stop", service, func(p process) error {
		if err := p.signal(syscall.SIGTERM); err != nil {
			return err
		}
		for p.alive() {
			if !sleep.For(ctx, 10*time.Millisecond) {
				return fmt.Errorf("cannot stop %s on %s: %w", service, h.Name, ctx.Err())
			}
		}
		return nil
	})
}

func (l *Lab) end(h *Host, verb, service string, end func(process) error) error {
	return l.change(func() error {
		if !slices.Contains(h.serviceNames(), service) {
			return fmt.Errorf("cannot %s %q on %s: it has %s", verb, service, h.Name, strings.Join(h.serviceNames(), ", "))
		}
		if err := end(h.Services[service]); err != nil {
			return err
		}
		delete(h.Services, service)
		return nil
	})
}

// PID is the process id of a service of the host, or 0 where it does not run.
func (h *Host) PID(service string) int {
	if p := h.Services[service]; p.alive() {
		return p.PID
	}
	return 0
}

// withStderr adds what a command printed on standard error to its error.
func withStderr(err error) error {
	if exit, ok := err.(*exec.ExitError); ok && len(exit.Stderr) > 0 {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
	}
	return err
}

func tail(path string) string {
	raw, _ := os.ReadFile(path)
	if len(raw) > 2000 {
		raw = raw[len(raw)-2000:]
	}
	return string(raw)
}
