package single

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lockstep/internal/eventually"
	"lockstep/internal/kubectl"
	"lockstep/internal/locked"
)

// patience bounds what takes a second or two on an idle machine.
const patience = 60 * time.Second

// machine is a host of its own as far as a node can tell: a network without any link but loopback, and empty /run,
// /var/lib and /var/log.
type machine struct {
	t     *testing.T
	pid   string
	node  string
	cache string // of kubectl
}

func newMachine(t *testing.T, node string) *machine {
	t.Helper()
	cmd := exec.Command("unshare", "--net", "--mount", "--propagation", "private", "--", "sh", "-ec", `
		ip link set lo up
		for dir in /run /var/lib /var/log; do mount -t tmpfs -o mode=755 tmpfs $dir; done
		mkdir /run/tmp
		echo ready
		exec cat`)
	stdin, err := cmd.StdinPipe() // cat ends with it
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || line != "ready\n" {
		t.Fatalf("the machine said %q, %v", line, err)
	}
	return &machine{t: t, pid: fmt.Sprint(cmd.Process.Pid), node: node, cache: t.TempDir()}
}

// path is a path of the machine as this process sees it.
func (m *machine) path(p string) string { return filepath.Join("/proc", m.pid, "root", p) }

func (m *machine) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"--target", m.pid, "--net", "--mount", "--", name}, args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR=/run/tmp", "HOME=/run/tmp")
	return cmd
}

// try runs a program on the machine.
func (m *machine) try(name string, args ...string) (string, error) {
	var stderr bytes.Buffer
	cmd := m.command(name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s%s", name, strings.Join(args, " "), err, out, stderr.String())
	}
	return string(out), err
}

func (m *machine) run(name string, args ...string) string {
	m.t.Helper()
	out, err := m.try(name, args...)
	if err != nil {
		m.t.Fatal(err)
	}
	return out
}

func (m *machine) kubectl(args ...string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		m.t.Fatal(err)
	}
	return m.try("env", append([]string{
		kubectl.Variable + "=1", self, "--cache-dir", m.cache, "--kubeconfig", "/var/lib/lockstep/viewer.kubeconfig",
	}, args...)...)
}

// eventually waits until check returns nil, and says how long that took.
func (m *machine) eventually(what string, check func() error) time.Duration {
	m.t.Helper()
	began := time.Now()
	eventually.Nil(m.t, patience, what, check)
	return time.Since(began)
}

// says checks that a URL answers with a text in its body.
func (m *machine) says(url, text string) error {
	out, err := m.try("curl", "-sS", "--max-time", "5", url)
	if err == nil && !strings.Contains(out, text) {
		err = fmt.Errorf("%s answers without %q: %s", url, text, out)
	}
	return err
}

// up is a running `lockstep up`.
type up struct {
	m      *machine
	cmd    *exec.Cmd
	ended  chan error
	stderr locked.Buffer

	mu    sync.Mutex
	lines []string
}

func (m *machine) up(args ...string) *up {
	m.t.Helper()
	u := &up{m: m, ended: make(chan error, 1)}
	u.cmd = m.command(filepath.Join(bin, "lockstep"), append([]string{"up", "--node-name", m.node}, args...)...)
	u.cmd.Stderr = &u.stderr
	stdout, err := u.cmd.StdoutPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	if err := u.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	go func() {
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			u.mu.Lock()
			u.lines = append(u.lines, lines.Text())
			u.mu.Unlock()
		}
		_, _ = io.Copy(io.Discard, stdout)
		u.ended <- u.cmd.Wait()
	}()
	m.t.Cleanup(func() { _ = u.cmd.Process.Kill() })
	return u
}

// line waits for a line that begins with a word, and returns the rest of it.
func (u *up) line(word string) string {
	u.m.t.Helper()
	rest := ""
	u.m.eventually("a line "+word, func() error {
		select {
		case err := <-u.ended:
			u.ended <- err
			u.m.t.Fatalf("lockstep up ended: %v\n%s", err, u.stderr.String())
		default:
		}
		u.mu.Lock()
		defer u.mu.Unlock()
		for _, l := range u.lines {
			if after, ok := strings.CutPrefix(l, word); ok {
				rest = strings.TrimSpace(after)
				return nil
			}
		}
		return fmt.Errorf("it printed\n%s\n%s", strings.Join(u.lines, "\n"), u.stderr.String())
	})
	return rest
}

// expected are lines of etcd's that a busy machine causes, a line that tells a machine that restricts even root, and the
// one about the manifest that the test breaks.
var expected = regexp.MustCompile(`took too long|overloaded|no CAP_SYS_RESOURCE|"revision not applied".*broken\.yaml`)

// stop sends a signal and waits for the end. It checks that the log has nothing that is not worth a warning.
func (u *up) stop(signal syscall.Signal) {
	u.m.t.Helper()
	if err := u.cmd.Process.Signal(signal); err != nil {
		u.m.t.Fatal(err)
	}
	began := time.Now()
	select {
	case err := <-u.ended:
		var exit *exec.ExitError
		if signal == syscall.SIGKILL && errors.As(err, &exit) {
			err = nil
		}
		if err != nil {
			u.m.t.Errorf("lockstep up ended with %v", err)
		}
	case <-time.After(patience):
		u.m.t.Fatalf("lockstep up does not end: %s", u.stderr.String())
	}
	u.m.t.Logf("stopped by %s in %s", signal, time.Since(began).Round(time.Millisecond))
	for line := range strings.Lines(u.stderr.String()) {
		if !expected.MatchString(line) {
			u.m.t.Errorf("logged in normal operation: %s", line)
		}
	}
}

// containers are the process IDs of all containers, by container.
func (m *machine) containers() map[string]string {
	m.t.Helper()
	out := map[string]string{}
	for _, state := range []string{"/run/lockstep/containerd", "/run/containerd"} {
		files, err := filepath.Glob(m.path(state) + "/io.containerd.runtime.v2.task/lockstep/*/init.pid")
		if err != nil {
			m.t.Fatal(err)
		}
		for _, f := range files {
			pid, err := os.ReadFile(f)
			if err != nil {
				continue // removed since
			}
			out[filepath.Base(filepath.Dir(f))] = string(pid)
		}
	}
	return out
}

// processes are the command lines of what runs in the machine's namespaces.
func (m *machine) processes() []string {
	m.t.Helper()
	namespace := func(pid, kind string) string {
		to, _ := os.Readlink(filepath.Join("/proc", pid, "ns", kind)) // a process that ended has none
		return to
	}
	net, mounts := namespace(m.pid, "net"), namespace(m.pid, "mnt")
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		m.t.Fatal(err)
	}
	var out []string
	for _, dir := range dirs {
		pid := filepath.Base(dir)
		if pid == m.pid || namespace(pid, "net") != net && namespace(pid, "mnt") != mounts {
			continue
		}
		line, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if len(line) > 0 { // else it is about to be reaped
			out = append(out, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	slices.Sort(out)
	return out
}
