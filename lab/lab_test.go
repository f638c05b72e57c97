package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"lockstep/internal/eventually"
	"lockstep/lab/image"
	"lockstep/lab/programs"
)

// bin has the programs lockstep and lockstep-lab, and standin, which is what pods run.
var bin struct{ lockstep, self, standin string }

func TestMain(m *testing.M) {
	programs.Main(m, "the tests of a lab", find)
}

func find(dir string) error {
	from, err := programs.Find(dir, map[string]string{"standin": "lockstep/lab/standin"})
	if err != nil {
		return err
	}
	bin.lockstep, bin.self = filepath.Join(from, "lockstep"), filepath.Join(from, "lockstep-lab")
	bin.standin = filepath.Join(dir, "standin")
	return nil
}

// patience is how long the tests wait for what should take a few seconds: other tests share the machine.
const patience = 60 * time.Second

// traces are what is left of a lab on the machine: processes that see its folder or are marked with it, mounts, links,
// control groups of its nodes, files.
func traces(t *testing.T, dir, prefix string, before machine) []string {
	t.Helper()
	var out []string
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() || !newProcess(pid).alive() {
			continue // a zombie has nothing any more, and goes when the machine's init looks after it
		}
		for _, file := range []string{"environ", "cmdline", "mountinfo", "cgroup"} {
			raw, err := os.ReadFile(filepath.Join("/proc", e.Name(), file))
			if err == nil && (strings.Contains(string(raw), dir) || strings.Contains(string(raw), "/"+prefix)) {
				line, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
				out = append(out, fmt.Sprintf("process %d (%s): its %s", pid, strings.ReplaceAll(string(line), "\x00", " "), file))
			}
		}
	}
	now := look(t)
	for kind, list := range now {
		for _, item := range list {
			// What names neither the lab nor its nodes may be of a test that runs beside this one.
			if !slices.Contains(before[kind], item) &&
				(strings.Contains(item, prefix) || strings.Contains(item, dir) || kind == "link" && strings.HasPrefix(item, "port")) {
				out = append(out, kind+" "+item)
			}
		}
	}
	if _, err := os.Lstat(dir); err == nil {
		out = append(out, "folder "+dir)
	}
	return out
}

// machine lists mounts, links, control groups and files by kind.
type machine map[string][]string

func look(t *testing.T) machine {
	t.Helper()
	m := machine{}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	m["mount"] = strings.Split(string(mounts), "\n")
	links, err := os.ReadDir("/sys/class/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		m["link"] = append(m["link"], l.Name())
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			m["control group"] = append(m["control group"], path)
		}
		return nil //nolint:nilerr // a group that went away meanwhile is none
	})
	for _, dir := range []string{
		"/run", "/run/netns", "/run/containerd", "/run/lockstep", "/var/lib", "/var/lib/cni", "/var/lib/lockstep",
		"/var/log", "/var/log/pods", "/etc/cni/net.d", os.TempDir(),
	} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			m["file"] = append(m["file"], filepath.Join(dir, e.Name()))
		}
	}
	return m
}

const deployment = `apiVersion: apps/v1
kind: Deployment
metadata: {name: echo}
spec:
  replicas: 2
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      containers:
      - name: echo
        image: lab-test/echo:v1
        readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}
`

// TestLab takes one lab through its faults, and down.
func TestLab(t *testing.T) {
	before := look(t)
	parent := t.TempDir()
	dir := filepath.Join(parent, "lab")
	const prefix = "lt-"
	l, err := Up(t.Context(), Options{
		Dir: dir, Lockstep: bin.lockstep, Self: bin.self, Prefix: prefix, Sources: []string{hubHTTP + "/lab/echo.git"},
		Disk: 1 << 30,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := Remove(context.WithoutCancel(t.Context()), dir); err != nil {
			t.Error(err)
		}
	}()
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), bin.self, append([]string{"--dir", dir}, args...)...)
		cmd.Dir = filepath.Dir(bin.self)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	must := func(args ...string) string {
		t.Helper()
		out, err := run(args...)
		if err != nil {
			t.Fatalf("lockstep-lab %v: %v: %s", args, err, out)
		}
		return out
	}
	client, err := l.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}

	if _, err := Up(t.Context(), Options{Dir: dir, Lockstep: bin.lockstep, Self: bin.self}); err == nil {
		t.Error("a second lab was made in the same folder")
	}
	tar := filepath.Join(parent, "echo.tar")
	if err := image.SaveProgram(tar, "lab-test/echo:v1", bin.standin, "/standin", "serve", "echo", "8080"); err != nil {
		t.Fatal(err)
	}
	must("images", tar)
	folder := strings.Fields(must("repo", "echo"))[3]
	if out := must("repo", "echo", "--ssh"); !strings.Contains(out, "ssh://git@10.99.0.2:2222/lab/echo.git") ||
		!strings.Contains(out, folder) {
		t.Errorf("repo --ssh prints %s", out)
	}
	work := filepath.Join(parent, "work")
	git := func(args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=Ada",
			"GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=a@b")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
	}
	git("init", "-q", "-b", "main", work)
	if err := os.WriteFile(filepath.Join(work, "echo.yaml"), []byte(deployment), 0o644); err != nil {
		t.Fatal(err)
	}
	git("-C", work, "add", "-A")
	git("-C", work, "commit", "-q", "-m", "echo")
	git("-C", work, "push", "-q", folder, "main")
	eventually.Nil(t, patience, "echo is ready", func() error { return echoReady(t.Context(), client) })

	t.Run("exec", func(t *testing.T) {
		if out := must("exec", "agent1", "--", "hostname"); strings.TrimSpace(out) != prefix+"agent1" {
			t.Errorf("hostname prints %q", out)
		}
		out := must("exec", "server1", "--", "./"+filepath.Base(bin.self), "--dir", dir, "status")
		if !strings.Contains(out, prefix+"agent2") {
			t.Errorf("a program named from the current folder prints %q", out)
		}
		if out, err := run("exec", "agent1", "--", "sh", "-c", "exit 7"); err == nil || err.(*exec.ExitError).ExitCode() != 7 {
			t.Errorf("exit 7 becomes %v: %s", err, out)
		}
		if out := must("exec", "agent1", "--", "cat", "/proc/net/route"); strings.Contains(out, "\t00000000\t00000000\t") {
			t.Errorf("a host has a way out: %s", out)
		}
		if out, err := run("exec", "nobody", "--", "true"); err == nil || !strings.Contains(out, `cannot find host "nobody"`) {
			t.Errorf("an unknown host: %v: %s", err, out)
		}
	})
	t.Run("kubeconfig", func(t *testing.T) {
		if out := must("kubeconfig"); !strings.Contains(out, "https://"+l.Forwarded("api")) {
			t.Errorf("kubeconfig prints %s", out)
		}
		if out := must("kubeconfig", "--inside"); !strings.Contains(out, "https://10.99.0.11:6443") {
			t.Errorf("kubeconfig --inside prints %s", out)
		}
	})
	t.Run("cut and heal", func(t *testing.T) {
		agent := l.Agents()[0]
		reach := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			return answers(ctx, agent, "https://"+l.Server().Addr+":6443/readyz")
		}
		if err := reach(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			must("cut", "agent1")
		}
		if err := reach(); err == nil {
			t.Error("a host that was cut reaches the server")
		}
		if out := must("status"); !strings.Contains(out, "cut") {
			t.Errorf("status does not say that a host is cut: %s", out)
		}
		for range 2 {
			must("heal", "agent1")
		}
		eventually.Nil(t, patience, "the server is reached", reach)
	})
	t.Run("kill and start", func(t *testing.T) {
		before := echoContainers(t, client)
		for _, s := range [][2]string{{"agent1", Agent}, {"agent1", Containerd}, {"server1", Daemon}} {
			for range 2 {
				must("kill", s[0], s[1])
			}
			if out := must("status"); !strings.Contains(out, s[1]+" (stopped)") {
				t.Errorf("status does not say that %s is stopped: %s", s[1], out)
			}
			for range 2 {
				must("start", s[0], s[1])
			}
		}
		if out, err := run("kill", "agent1", Daemon); err == nil || !strings.Contains(out, "it has containerd, agent") {
			t.Errorf("killing what a host does not have: %v: %s", err, out)
		}
		eventually.Nil(t, patience, "echo is ready", func() error { return echoReady(t.Context(), client) })
		if after := echoContainers(t, client); !slices.Equal(before, after) {
			agent := l.Agents()[0]
			t.Errorf("containers were %v and are %v; agent: %s; containerd: %s", before, after, tail(agent.LogFile(Agent)),
				tail(agent.LogFile(Containerd)))
		}
	})
	t.Run("disk full", func(t *testing.T) {
		for range 2 {
			must("disk-full", "server1")
		}
		ready := func() error { return answers(t.Context(), l.Server(), "https://127.0.0.1:6443/readyz") }
		eventually.True(t, patience, "the server says that its disk is full", func() bool {
			err := ready()
			return err != nil && strings.Contains(err.Error(), "disk")
		})
		if out := must("status"); !strings.Contains(out, "disk full") {
			t.Errorf("status does not say that a disk is full: %s", out)
		}
		must("heal", "server1")
		eventually.Nil(t, patience, "the server is ready", ready)
	})
	t.Run("slow and parted", func(t *testing.T) {
		for range 2 {
			if out := must("slow", "agent1"); !strings.Contains(out, "netem") {
				t.Errorf("slow does not say by what: %s", out)
			}
			must("partition", "agent1", "agent2")
		}
		must("skew", "agent2", "--", "-1h")
		out := must("status")
		for _, want := range []string{"slow; parted from " + prefix + "agent2", "parted from " + prefix + "agent1; clock off by -1h0m0s"} {
			if !strings.Contains(out, want) {
				t.Errorf("status does not say %q: %s", want, out)
			}
		}
		for range 2 {
			must("heal", "agent1")
		}
		if out := must("status"); strings.Contains(out, "slow") || strings.Contains(out, "parted") || !strings.Contains(out, "clock off") {
			t.Errorf("after agent1 is healed status prints %s", out)
		}
		must("heal", "agent2")
		if out := must("status"); strings.Contains(out, "clock") {
			t.Errorf("after agent2 is healed status prints %s", out)
		}
		must("backup", filepath.Join(parent, "backup"))
		if info, err := os.Stat(filepath.Join(parent, "backup")); err != nil || info.Size() == 0 {
			t.Errorf("there is no backup: %v", err)
		}
	})
	t.Run("refused", func(t *testing.T) {
		for _, c := range [][2]string{
			{"partition agent1 agent1", "cannot part lt-agent1 from itself"}, {"partition agent1", "accepts 2 arg(s)"},
			{"partition agent1 nobody", `cannot find host "nobody"`}, {"slow nobody", `cannot find host "nobody"`},
			{"skew agent1 soon", `invalid duration "soon"`}, {"skew agent1 1500ms", "whole seconds"},
			{"wipe hub", "it is not of the cluster"},
			{"disk-full", "accepts 1 arg(s)"}, {"disk-full hub", "cannot fill the disk"}, {"reboot", "accepts 1 arg(s)"},
			{"reboot --all agent1", "unknown command"}, {"backup " + parent + "/none/file", "no such file"},
		} {
			if out, err := run(strings.Fields(c[0])...); err == nil || !strings.Contains(out, c[1]) {
				t.Errorf("%s: want an error with %q: %v: %s", c[0], c[1], err, out)
			}
		}
	})
	t.Run("reboot", func(t *testing.T) {
		before := echoContainers(t, client)
		agent := l.Agents()[0]
		if err := os.WriteFile(filepath.Join(agent.Dir, "kept"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := agent.Run(t.Context(), "touch", "/run/gone"); err != nil {
			t.Fatal(err)
		}
		pid := agent.Holder.PID
		must("reboot", "agent1")
		if err := l.load(); err != nil {
			t.Fatal(err)
		}
		if agent.Holder.PID == pid {
			t.Error("the host's namespaces are the old ones")
		}
		if _, err := os.Stat(filepath.Join(agent.Dir, "kept")); err != nil {
			t.Errorf("the disk has changed: %v", err)
		}
		if _, err := agent.Run(t.Context(), "test", "-e", "/run/gone"); err == nil {
			t.Error("/run was not emptied")
		}
		eventually.Nil(t, patience, "echo has other containers", func() error {
			if err := echoReady(t.Context(), client); err != nil {
				return err
			}
			if after := echoContainers(t, client); slices.Equal(before, after) || len(after) != len(before) {
				return fmt.Errorf("containers were %v and are %v", before, after)
			}
			return nil
		})
		must("reboot", "server1")
		// Over the same forwarded address.
		eventually.Nil(t, patience, "echo is ready", func() error { return echoReady(t.Context(), client) })
		must("reboot", "hub")
		if err := l.load(); err != nil {
			t.Fatal(err)
		}
		if statuses, err := l.Statuses(t.Context(), "lab/echo", commitOf(t, work)); err != nil || len(statuses) == 0 {
			t.Errorf("the forge has lost its statuses: %v", err)
		}
	})
	t.Run("down", func(t *testing.T) {
		if left := traces(t, dir, prefix, before); len(left) < 10 {
			t.Fatalf("of a whole lab only these traces are found: %q", left)
		}
		for range 2 {
			must("down")
		}
		if left := traces(t, dir, prefix, before); len(left) > 0 {
			t.Errorf("left behind: %s", strings.Join(left, "\n"))
		}
	})
}

// TestDownAfterCrash kills lockstep-lab while it makes a lab, at different moments, and everything that holds one.
func TestDownAfterCrash(t *testing.T) {
	const prefix = "lc-"
	for _, after := range []time.Duration{20, 60, 150, 400, 3000} {
		t.Run(fmt.Sprintf("%dms", after), func(t *testing.T) {
			before := look(t)
			dir := filepath.Join(t.TempDir(), "lab")
			up := exec.CommandContext(t.Context(), bin.self, "--dir", dir, "up", "--prefix", prefix, "--lockstep", bin.lockstep)
			if err := up.Start(); err != nil {
				t.Fatal(err)
			}
			timer := time.AfterFunc(after*time.Millisecond, func() { _ = up.Process.Kill() })
			_ = up.Wait()
			timer.Stop()
			// The holders are what keeps a lab together; down must not need them.
			for _, p := range descendants(func(pid int) bool { return isMarked(pid, dir) }) {
				raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID))
				if err == nil && strings.Contains(string(raw), holderArg) {
					if err := p.signal(9); err != nil {
						t.Error(err)
					}
				}
			}
			out, err := exec.CommandContext(t.Context(), bin.self, "--dir", dir, "down").CombinedOutput()
			if err != nil {
				t.Fatalf("down: %v: %s", err, out)
			}
			if left := traces(t, dir, prefix, before); len(left) > 0 {
				t.Errorf("left behind: %s", strings.Join(left, "\n"))
			}
		})
	}
}

func TestDownSparesOtherFolders(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "letter"), []byte("dear"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Remove(t.Context(), dir); err == nil {
		t.Error("a folder that is no lab was removed")
	}
	if _, err := os.Stat(filepath.Join(dir, "letter")); err != nil {
		t.Error(err)
	}
	if _, err := Up(t.Context(), Options{Dir: dir, Lockstep: bin.lockstep, Self: bin.self}); err == nil {
		t.Error("a lab was made in a folder that holds something else")
	}
	if _, err := Up(t.Context(), Options{Dir: filepath.Join(dir, "lab"), Lockstep: bin.lockstep, Self: bin.self, Servers: 2}); err == nil {
		t.Error("a lab of two servers was made")
	}
	small := Options{Dir: filepath.Join(dir, "lab"), Lockstep: bin.lockstep, Self: bin.self, Disk: 1 << 20}
	if _, err := Up(t.Context(), small); err == nil {
		t.Error("a lab was made whose disks have no room for etcd")
	}
}

func commitOf(t *testing.T, work string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "git", "-C", work, "rev-parse", "HEAD").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func echoReady(ctx context.Context, client *kubernetes.Clientset) error {
	d, err := client.AppsV1().Deployments("default").Get(ctx, "echo", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if d.Status.ReadyReplicas != 2 {
		return fmt.Errorf("%d of 2 are ready", d.Status.ReadyReplicas)
	}
	return nil
}

// echoContainers are the pods' uids and containers.
func echoContainers(t *testing.T, client *kubernetes.Clientset) []string {
	t.Helper()
	list, err := client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{LabelSelector: "app=echo"})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, p := range list.Items {
		out = append(out, string(p.UID)+" "+containerID(p))
	}
	slices.Sort(out)
	return out
}

func containerID(p corev1.Pod) string {
	if len(p.Status.ContainerStatuses) == 0 {
		return ""
	}
	return p.Status.ContainerStatuses[0].ContainerID
}
