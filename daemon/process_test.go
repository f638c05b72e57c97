package daemon_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"lockstep/daemon/command"
	"lockstep/daemon/control"
	"lockstep/daemon/etcd/etcdtest"
	"lockstep/internal/eventually"
	"lockstep/internal/locked"
	"lockstep/internal/loopback"
)

// commandEnv makes the test binary lockstep.
const commandEnv = "LOCKSTEP_TEST_COMMAND"

func TestMain(m *testing.M) {
	etcdtest.Main()
	if os.Getenv(commandEnv) != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		err := command.Run(ctx, os.Args[1:])
		stop()
		os.Exit(command.Tell(os.Stderr, err))
	}
	goleak.VerifyTestMain(m)
}

// server is `lockstep daemon` in a process of its own.
type server struct {
	t            *testing.T
	args         []string
	dir          string
	folder       string // of its source, named shop
	api, status  string // addresses
	log          *logBuffer
	cmd          *exec.Cmd
	done         chan struct{}
	expectedDead bool
}

// newServer returns a daemon that is not started yet. It is killed with the test.
func newServer(t *testing.T, name string, args ...string) *server {
	t.Helper()
	dir, err := os.MkdirTemp("", "ls")
	if err != nil {
		t.Fatal(err)
	}
	api, status := loopback.Free(t).String(), loopback.Free(t).String()
	s := &server{t: t, dir: dir, folder: filepath.Join(dir, "shop"), api: api, status: status, log: &logBuffer{}}
	if err := os.Mkdir(s.folder, 0o755); err != nil {
		t.Fatal(err)
	}
	s.args = append([]string{
		"daemon", "--name", name, "--listen", s.api, "--advertise", "192.0.2.1", // loopback is no address for nodes; nobody dials it
		"--status-listen", s.status,
		"--data-dir", filepath.Join(dir, "data"), "--run-dir", filepath.Join(dir, "run"),
	}, args...)
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			t.Logf("log of %s:\n%s", name, s.log)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return s
}

// external are the flags that name an etcd.
func external(p *etcdtest.Process) []string {
	return []string{
		"--etcd-endpoints", strings.Join(p.Endpoints, ","), "--etcd-cafile", p.TLS.CAFile,
		"--etcd-certfile", p.TLS.CertFile, "--etcd-keyfile", p.TLS.KeyFile,
	}
}

func (s *server) start() {
	s.t.Helper()
	s.cmd = exec.Command(os.Args[0], s.args...)
	s.cmd.Env = append(os.Environ(), commandEnv+"=1")
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.done, s.expectedDead = make(chan struct{}), false
	go func(cmd *exec.Cmd, done chan struct{}) { // ends with the process
		defer close(done)
		_ = cmd.Wait()
	}(s.cmd, s.done)
}

func (s *server) kill() {
	if s.cmd == nil {
		return
	}
	s.expectedDead = true
	_ = s.cmd.Process.Kill()
	<-s.done
	s.cmd = nil
}

// stop ends the daemon in good order.
func (s *server) stop() {
	s.t.Helper()
	s.expectedDead = true
	s.signal(syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(20 * time.Second):
		s.t.Fatal("the daemon does not end")
	}
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		s.t.Errorf("the daemon ended with code %d", code)
	}
	s.cmd = nil
}

// signal stops or continues the process.
func (s *server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// until waits for a condition; what names it, and last tells what was seen instead.
func (s *server) until(what string, ok func() (last string, ok bool)) {
	s.t.Helper()
	eventually.Nil(s.t, 60*time.Second, what, func() error {
		select {
		case <-s.done:
			if !s.expectedDead {
				s.t.Fatalf("the daemon has ended, waiting for: %s", what)
			}
		default:
		}
		if last, is := ok(); !is {
			return errors.New(last)
		}
		return nil
	})
}

// get asks without credentials; code is 0 where nobody answers.
func (s *server) get(url string) (code int, body string) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true,
	}}
	response, err := client.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = response.Body.Close() }()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err.Error()
	}
	return response.StatusCode, string(data)
}

// untilReady waits for the API, and for the door beside it.
func (s *server) untilReady() {
	s.t.Helper()
	s.untilReadyz(http.StatusOK, "ok")
	s.until("the control socket answers", func() (string, bool) {
		_, err := s.door().Report(s.t.Context())
		return fmt.Sprint(err), err == nil
	})
}

// untilReadyz waits for what /readyz says.
func (s *server) untilReadyz(want int, text string) {
	s.t.Helper()
	s.until(fmt.Sprintf("/readyz says %d %s", want, text), func() (string, bool) {
		code, body := s.get("https://" + s.api + "/readyz")
		return fmt.Sprint(code, " ", body), code == want && strings.Contains(body, text)
	})
}

func (s *server) door() *control.Client { return control.Dial(filepath.Join(s.dir, "run")) }

// viewer is the configuration of a client that may read.
func (s *server) viewer() *rest.Config {
	s.t.Helper()
	text, err := s.door().Kubeconfig(s.t.Context(), control.KubeconfigOptions{Server: "https://" + s.api})
	if err != nil {
		s.t.Fatal(err)
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(text)
	if err != nil {
		s.t.Fatal(err)
	}
	config.QPS, config.Burst = 1000, 1000
	return config
}

func (s *server) client() *kubernetes.Clientset {
	s.t.Helper()
	client, err := kubernetes.NewForConfig(s.viewer())
	if err != nil {
		s.t.Fatal(err)
	}
	return client
}

// metric returns a metric's value as text; empty where there is none.
func (s *server) metric(name string) string {
	client, err := kubernetes.NewForConfig(s.viewer())
	if err != nil {
		s.t.Fatal(err)
	}
	data, err := client.RESTClient().Get().AbsPath("/metrics").DoRaw(s.t.Context())
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// push writes the source's one manifest, a ConfigMap prices with a value.
func (s *server) push(value string) {
	s.t.Helper()
	text := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: prices, namespace: default}\ndata: {tea: '" + value + "'}\n"
	if err := os.WriteFile(filepath.Join(s.folder, "shop.yaml"), []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// untilApplied waits until the source's status is success and the ConfigMap has the value.
func (s *server) untilApplied(value func() string, want string) {
	s.t.Helper()
	s.until("prices has "+want+" and the source success", func() (string, bool) {
		report, err := s.door().Report(s.t.Context())
		if err != nil || len(report.Sources) != 1 {
			return fmt.Sprint(report, err), false
		}
		got := value()
		return fmt.Sprintf("%q, %+v", got, report.Sources[0].Status), got == want && report.Sources[0].Status.State == "success"
	})
}

// logBuffer keeps a process's log.
type logBuffer struct{ locked.Buffer }

// mark returns where the log is, for since.
func (b *logBuffer) mark() int { return len(b.String()) }

// since returns the lines from a mark on that are no mere information, and those that no logger of ours has written.
func (b *logBuffer) since(mark int) (alarming []string) {
	for line := range strings.Lines(b.String()[mark:]) {
		if !strings.Contains(line, "level=INFO") && !strings.Contains(line, "level=DEBUG") {
			alarming = append(alarming, strings.TrimSpace(line))
		}
	}
	return alarming
}
