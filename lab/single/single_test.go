package single

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// systemSocket is where the system's containerd listens.
const systemSocket = "/run/containerd/containerd.sock"

// TestUp runs the example where nothing else is: with a containerd of the agent's own, and with the system's.
func TestUp(t *testing.T) {
	t.Run("managed", func(t *testing.T) {
		m := newMachine(t, fmt.Sprintf("single-managed-%d", os.Getpid()))
		life(t, m)
	})
	t.Run("system", func(t *testing.T) {
		m := newMachine(t, fmt.Sprintf("single-system-%d", os.Getpid()))
		m.containerd()
		life(t, m)
	})
}

// containerd runs the system's containerd on the machine until the test ends.
func (m *machine) containerd() {
	m.t.Helper()
	if err := os.MkdirAll(m.path("/run/containerd"), 0o711); err != nil {
		m.t.Fatal(err)
	}
	config := `version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
`
	if err := os.WriteFile(m.path("/run/containerd/config.toml"), []byte(config), 0o600); err != nil {
		m.t.Fatal(err)
	}
	log, err := os.Create(m.path("/run/containerd/log"))
	if err != nil {
		m.t.Fatal(err)
	}
	cmd := m.command("containerd", "--config", "/run/containerd/config.toml")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		_ = log.Close()
	})
	m.eventually("containerd", func() error {
		_, err := m.try("ctr", "version")
		return err
	})
}

// life is a node's, from nothing to nothing.
func life(t *testing.T, m *machine) {
	folder := t.TempDir()
	if err := os.CopyFS(folder, os.DirFS("../../manifests-example")); err != nil {
		t.Fatal(err)
	}
	reset := func() (string, error) { return m.try(filepath.Join(bin, "lockstep"), "reset") }
	t.Cleanup(func() { // a test that failed midway leaves nothing either
		if _, err := reset(); err != nil && !t.Failed() {
			t.Error(err)
		}
	})
	before := m.snapshot()
	args := []string{folder, "--images", filepath.Join(bin, "images")}

	began := time.Now()
	u := m.up(args...)
	u.line("source " + filepath.Base(folder) + ": success")
	url := u.line("open")
	t.Logf("healthy in %s", time.Since(began).Round(time.Millisecond))
	if !strings.HasPrefix(url, "http://100.64.0.1:30080") {
		t.Errorf("the address to open is %s", url)
	}
	t.Run("answers", func(t *testing.T) { answers(t, m, url) })
	t.Run("rolls", func(t *testing.T) { rolls(t, m, folder, url) })

	if out, err := reset(); err == nil || !strings.Contains(err.Error(), "stop it first") {
		t.Errorf("a reset while it runs = %q, %v", out, err)
	}
	was := m.containers()
	if len(was) < 5 {
		t.Fatalf("containers: %v", was)
	}
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL, syscall.SIGTERM} {
		u.stop(signal)
		if diff := cmp.Diff(was, m.containers()); diff != "" {
			t.Errorf("containers after %s (-before +after):\n%s", signal, diff)
		}
		if err := m.says(url, "Ships at anchor"); err != nil {
			t.Errorf("while nothing runs: %v", err)
		}
		began := time.Now()
		u = m.up(args...)
		u.line("open")
		t.Logf("healthy again in %s after %s", time.Since(began).Round(time.Millisecond), signal)
		if diff := cmp.Diff(was, m.containers()); diff != "" {
			t.Errorf("containers after %s and a start (-before +after):\n%s", signal, diff)
		}
	}
	restarts, err := m.kubectl("get", "pods", "-A", "-o", `jsonpath={.items[*].status.containerStatuses[*].restartCount}`)
	if err != nil || strings.Trim(restarts, "0 ") != "" {
		t.Errorf("restarts: %q, %v", restarts, err)
	}
	u.stop(syscall.SIGINT)

	for range 2 { // the second has nothing to do
		out, err := reset()
		if err != nil {
			t.Fatal(err)
		}
		if want := "nothing of Lockstep is left on this machine\n"; out != want {
			t.Errorf("reset printed %q", out)
		}
		m.compare(before, m.snapshot())
	}
}

// answers checks everything that is promised to answer.
func answers(t *testing.T, m *machine, url string) {
	for _, at := range []string{url, "http://127.0.0.1:30080/"} {
		if err := m.says(at, "Bellweather"); err != nil {
			t.Error(err)
		}
	}
	if err := m.says("http://127.0.0.1:7070/", "harbour"); err != nil {
		t.Error(err)
	}
	list, err := m.kubectl("get", "deploy,rs,po,svc,endpointslices,no", "-o", "wide", "-A")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`deployment\.apps/api +2/2 `, `deployment\.apps/web +2/2 `, `replicaset\.apps/web-\w+ +2 +2 +2 `,
		`pod/api-\w+-\w+ +1/1 +Running +0 `,
		`service/web +NodePort .*80:30080/TCP`, `endpointslice\.discovery\.k8s\.io/web-`, `node/` + m.node + ` +Ready .* 100\.64\.0\.1 `,
	} {
		if !regexp.MustCompile(want).MatchString(list) {
			t.Errorf("kubectl does not list %s:\n%s", want, list)
		}
	}
	if out, err := m.kubectl("delete", "deployment", "web", "-n", "harbour"); err == nil ||
		!strings.Contains(err.Error(), "changed by editing its manifests") {
		t.Errorf("kubectl delete = %q, %v", out, err)
	}
	// Pods reach the API at its service address.
	netns, err := filepath.Glob(m.path("/run/lockstep/pods/*/ns/net"))
	if err != nil || len(netns) == 0 {
		t.Fatalf("no network of a pod: %v", err)
	}
	inside := strings.TrimPrefix(netns[0], m.path("/"))
	if out, err := m.try("nsenter", "--net=/"+inside, "curl", "-sSk", "--max-time", "5", "https://10.43.0.1/readyz"); err != nil ||
		out != "ok" {
		t.Errorf("a pod asks the API: %q, %v", out, err)
	}
	for path, wants := range map[string][]string{
		"/metrics": {
			"lockstep_api_request", "lockstep_store_txn", "lockstep_reconciler_queue_depth", "lockstep_reconciler_decide_seconds",
			"lockstep_scheduler_decide_seconds", "lockstep_source_seconds", "lockstep_sync_revisions_total", "lockstep_forge_outbox",
			"lockstep_etcd_", "etcd_disk_wal_fsync_duration_seconds", "go_goroutines", "process_resident_memory_bytes",
		},
		"/api/v1/nodes/" + m.node + "/proxy/metrics": {
			`lockstep_agent_pods{phase="Running"} 4`, "lockstep_agent_step_seconds", "lockstep_agent_report_seconds",
			"lockstep_agent_status_queue_depth", "lockstep_proxy_sync_seconds", "lockstep_dns_answers_total",
			"lockstep_agent_probe_seconds", "process_resident_memory_bytes",
		},
	} {
		out, err := m.kubectl("get", "--raw", path)
		if err != nil {
			t.Error(err)
		}
		for _, want := range wants {
			if !strings.Contains(out, "\n"+want) {
				t.Errorf("%s has no %s", path, want)
			}
		}
	}
	// Profiles are for root on the machine only.
	for _, path := range []string{"/debug/pprof/", "/api/v1/nodes/" + m.node + "/proxy/debug/pprof/"} {
		if out, err := m.kubectl("get", "--raw", path); err == nil {
			t.Errorf("%s answers %q", path, out)
		}
	}
	if out, err := m.try("curl", "-sS", "--unix-socket", "/run/lockstep/control.sock",
		"http://daemon/debug/pprof/goroutine?debug=1"); err != nil || !strings.Contains(out, "goroutine profile") {
		t.Errorf("profile by the control socket: %.80q, %v", out, err)
	}
}

// rolls edits files of the folder and waits for what they say.
func rolls(t *testing.T, m *machine, folder, url string) {
	edit := func(file, old, new string) {
		t.Helper()
		path := filepath.Join(folder, file)
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(raw), old) {
			t.Fatalf("%s has no %q", file, old)
		}
		if err := os.WriteFile(path, []byte(strings.Replace(string(raw), old, new, 1)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	pods := func() (string, error) {
		return m.kubectl("get", "pods", "-n", "harbour", "-l", "app=web", "-o", "name")
	}
	first, err := pods()
	if err != nil {
		t.Fatal(err)
	}
	edit("web.yaml", "value: Ships in port", "value: Ships at anchor")
	t.Logf("an edit of the environment answers after %s",
		m.eventually("the new title", func() error { return m.says(url, "Ships at anchor") }))
	edit("web.yaml", "replicas: 2", "replicas: 3")
	t.Logf("an edit of the replicas is ready after %s", m.eventually("three replicas", func() error {
		out, err := m.kubectl("get", "deployment", "web", "-n", "harbour", "-o",
			"jsonpath={.status.readyReplicas}/{.status.updatedReplicas}/{.status.replicas}")
		if err == nil && out != "3/3/3" {
			err = fmt.Errorf("ready, updated, all: %s", out)
		}
		return err
	}))
	// Those that end are not counted among the replicas, and are there until they have ended.
	m.eventually("other pods", func() error {
		second, err := pods()
		if err != nil {
			return err
		}
		for pod := range strings.FieldsSeq(first) {
			if strings.Contains(second, pod) {
				return fmt.Errorf("%s was not replaced: %s", pod, second)
			}
		}
		return nil
	})
	edit("harbour.yaml", "Corvina ", "Dorado ")
	t.Logf("an edit of the configuration is read after %s", m.eventually("the new ship", func() error { return m.says(url, "Dorado") }))
	broken := `apiVersion: v1
kind: ConfigMap
metadata:
  name: broken
  namespace: harbour
dta: {}
`
	if err := os.WriteFile(filepath.Join(folder, "broken.yaml"), []byte(broken), 0o644); err != nil {
		t.Fatal(err)
	}
	m.eventually("the refusal", func() error {
		out, err := m.try(filepath.Join(bin, "lockstep"), "status") // ends with 2 once it is so
		if !strings.Contains(out, "broken.yaml:6") {
			return fmt.Errorf("lockstep status: %v: it says\n%s", err, out)
		}
		return nil
	})
	if out, err := exec.Command(filepath.Join(bin, "lockstep"), "validate", folder).CombinedOutput(); err == nil ||
		!strings.Contains(string(out), `unknown field "dta"`) {
		t.Errorf("lockstep validate = %s, %v", out, err)
	}
	if err := os.Remove(filepath.Join(folder, "broken.yaml")); err != nil {
		t.Fatal(err)
	}
	m.eventually("health", func() error {
		out, err := m.try(filepath.Join(bin, "lockstep"), "status")
		if err == nil && !strings.Contains(out, ": success: ") {
			err = fmt.Errorf("lockstep status says\n%s", out)
		}
		return err
	})
}
