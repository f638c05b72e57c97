package faults

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"lockstep/internal/eventually"
	"lockstep/lab"
	"lockstep/lab/image"
	"lockstep/nodeagent/runtime"
)

const (
	namespace = "faults"
	loadImage = "lab.example/load:1"
	// patience is how long anything may take before it counts as not repaired; the tests check less where it is promised.
	patience = 90 * time.Second
)

// world is one lab with what runs in it.
type world struct {
	t        *testing.T
	ctx      context.Context
	lab      *lab.Lab
	client   *kubernetes.Clientset
	random   *rand.Rand
	source   string // the folder that the cluster runs
	registry *slowRegistry
	apps     map[string]*app
	agents   []*lab.Host // the first runs the printer

	printer string // address of the printer's statistics
	lines   *follower
	starved *starvation
	used    map[string]bool // pods that a test has killed a container of
	round   int
	began   time.Time // when what was killed was started again
	failure *error    // what was waited for in vain, in whichever test of this world
}

// app is a Deployment as it is stated now.
type app struct {
	replicas int
	image    string
	round    string // changes with every rollout
	node     string // empty: any
	spec     string // what its pods have beside that, indented as in a pod's spec
	cpu      string
}

func (w *world) manifest(name string, a *app) string {
	node := ""
	if a.node != "" {
		node = "      nodeSelector: {kubernetes.io/hostname: " + a.node + "}\n"
	}
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s, namespace: %[2]s}
spec:
  replicas: %[3]d
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata:
      labels: {app: %[1]s}
      annotations: {round: "%[4]s"}
    spec:
%[5]s%[6]s      containers:
      - name: main
        image: %[7]s
        resources: {requests: {cpu: %[8]s}}
        ports: [{containerPort: 8080}]
`, name, namespace, a.replicas, a.round, node, a.spec, a.image, a.cpu) + containers[strings.SplitN(name, "-", 2)[0]]
}

// containers are what is stated of the container itself, by the first part of the app's name.
var containers = map[string]string{
	"printer": `        args: [print]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
`,
	"web":    serving("serve"),
	"roll":   serving("serve, -start=200ms"),
	"pull":   serving("serve"),
	"victim": serving("serve"),
	"hook": serving("serve") + `        lifecycle:
          postStart: {exec: {command: [/load, sleep, 1s]}}
`,
	"slow": serving("serve, -start=1s, -stop=1s") + `        lifecycle:
          postStart: {exec: {command: [/load, sleep, 300ms]}}
          preStop: {exec: {command: [/load, sleep, 300ms]}}
`,
}

func serving(args string) string {
	return "        args: [" + args + "]\n        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}\n"
}

func service(name string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %[1]s, namespace: %[2]s}\n"+
		"spec:\n  selector: {app: %[1]s}\n  ports: [{port: 80, targetPort: 8080}]\n---\n", name, namespace)
}

// state puts an app into the source as it is in apps now.
func (w *world) state(name string) {
	text := w.manifest(name, w.apps[name])
	if name == "web" || name == "roll" {
		text = service(name) + text
	}
	w.write(name+".yaml", text)
}

// write replaces a file of the source whole.
func (w *world) write(file, text string) {
	w.t.Helper()
	path := filepath.Join(w.source, file)
	temporary := filepath.Join(filepath.Dir(w.source), "next-"+file)
	if err := os.WriteFile(temporary, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(temporary, path); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) nextRound() string {
	w.round++
	return fmt.Sprint(w.round)
}

func newWorld(t *testing.T, seed uint64, victims int) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{t: t, ctx: t.Context(), source: filepath.Join(dir, "source"), apps: map[string]*app{}, used: map[string]bool{},
		random: rand.New(rand.NewPCG(seed, 0)), failure: new(error)}
	if err := os.Mkdir(w.source, 0o755); err != nil {
		t.Fatal(err)
	}
	tar := filepath.Join(dir, "load.tar")
	err := image.SaveProgram(tar, loadImage, load, "/load")
	if err != nil {
		t.Fatal(err)
	}
	prefix := fmt.Sprintf("faults-%d-", os.Getpid())
	if w.lab, err = lab.Up(w.ctx, lab.Options{Dir: filepath.Join(dir, "lab"), Lockstep: lockstep, Self: lockstepLab,
		Sources: []string{w.source}, Prefix: prefix}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			w.report()
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := w.lab.Down(ctx); err != nil {
			t.Error(err)
		}
	})
	if err := w.lab.Images(w.ctx, tar); err != nil {
		t.Fatal(err)
	}
	if w.client, err = w.lab.Client(w.ctx); err != nil {
		t.Fatal(err)
	}
	w.agents = w.lab.Agents()
	w.registry = newSlowRegistry(t, w.lab)
	w.write("namespace.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: "+namespace+"}\n")
	w.apps["printer"] = &app{replicas: 1, node: w.agents[0].Name, cpu: "500m"}
	w.apps["web"] = &app{replicas: 4}
	w.apps["roll"] = &app{replicas: 3}
	for _, h := range w.agents {
		w.apps[victim(h)] = &app{replicas: victims, node: h.Name}
	}
	for name, a := range w.apps {
		w.fill(a)
		w.state(name)
	}
	w.settle("the workload")
	w.startLines()
	return w
}

func (w *world) fill(a *app) {
	if a.image == "" {
		a.image = loadImage
	}
	if a.round == "" {
		a.round = w.nextRound()
	}
	if a.cpu == "" {
		a.cpu = "10m"
	}
}

// victim names the app on a host whose containers may be killed.
func victim(h *lab.Host) string { return "victim-" + h.Name }

func (w *world) startLines() {
	w.t.Helper()
	pod := w.pods("printer")[0]
	w.printer = pod.Status.PodIP + ":8080"
	w.lines = follow(w.t, logPath(w.agents[0], namespace, pod.Name, string(pod.UID), "main"))
	carry, err := carriers(w.agents[0], w.processes()[pod.Name+"/main"].pid)
	if err != nil {
		w.t.Fatal(err)
	}
	w.starved = watchStarvation(w.t, carry...)
	w.await("the printer's statistics", func() (bool, string) {
		_, err := w.ask()
		return err == nil, fmt.Sprint(err)
	})
}

func (w *world) ask() (stats, error) { return ask(w.ctx, onHost(w.agents[0]), w.printer) }

// pods are an app's, those that are ending included.
func (w *world) pods(app string) []corev1.Pod {
	w.t.Helper()
	var list *corev1.PodList
	w.await("the list of pods", func() (bool, string) {
		var err error
		list, err = w.client.CoreV1().Pods(namespace).List(w.ctx, metav1.ListOptions{LabelSelector: "app=" + app})
		return err == nil, fmt.Sprint(err)
	})
	return list.Items
}

// settle waits until everything that the source states runs, and nothing else.
func (w *world) settle(what string) {
	w.t.Helper()
	w.await(what, w.settled)
}

func (w *world) settled() (bool, string) {
	deployments, err := w.client.AppsV1().Deployments(namespace).List(w.ctx, metav1.ListOptions{})
	if err != nil {
		return false, err.Error()
	}
	pods, err := w.client.CoreV1().Pods(namespace).List(w.ctx, metav1.ListOptions{})
	if err != nil {
		return false, err.Error()
	}
	found := map[string]*appsv1.Deployment{}
	for i := range deployments.Items {
		found[deployments.Items[i].Name] = &deployments.Items[i]
	}
	for _, name := range slices.Sorted(maps.Keys(w.apps)) {
		a, d := w.apps[name], found[name]
		if d == nil {
			return false, "Deployment " + name + " is missing"
		}
		delete(found, name)
		s, n := d.Status, int32(a.replicas)
		if d.Spec.Template.Annotations["round"] != a.round || *d.Spec.Replicas != n || s.ObservedGeneration != d.Generation {
			return false, "Deployment " + name + " is not what was stated last"
		}
		if s.Replicas != n || s.UpdatedReplicas != n || s.AvailableReplicas != n {
			return false, fmt.Sprintf("Deployment %s: %d replicas, %d updated, %d available; %s", name,
				s.Replicas, s.UpdatedReplicas, s.AvailableReplicas, describe(pods.Items, name))
		}
		if have := count(pods.Items, name); have != a.replicas {
			return false, fmt.Sprintf("Deployment %s has %d pods: %s", name, have, describe(pods.Items, name))
		}
	}
	for name := range found {
		return false, "Deployment " + name + " is still there"
	}
	return true, ""
}

func count(pods []corev1.Pod, app string) (n int) {
	for _, p := range pods {
		if p.Labels["app"] == app {
			n++
		}
	}
	return n
}

func describe(pods []corev1.Pod, app string) string {
	var out []string
	for _, p := range pods {
		if p.Labels["app"] != app {
			continue
		}
		line := fmt.Sprintf("%s on %q %s ending=%v", p.Name, p.Spec.NodeName, p.Status.Phase, p.DeletionTimestamp != nil)
		for _, c := range p.Status.ContainerStatuses {
			line += fmt.Sprintf(" ready=%v restarts=%d", c.Ready, c.RestartCount)
			if c.State.Waiting != nil {
				line += fmt.Sprintf(" %s: %.200s", c.State.Waiting.Reason, c.State.Waiting.Message)
			}
		}
		out = append(out, line)
	}
	return strings.Join(out, "; ")
}

func (w *world) await(what string, ok func() (bool, string)) {
	w.t.Helper()
	if err := until(w.ctx, patience, what, ok); err != nil {
		*w.failure = err
		w.t.Fatal(err)
	}
}

// until asks again and again; ok also says what is still wrong.
func until(ctx context.Context, limit time.Duration, what string, ok func() (bool, string)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := eventually.Do(ctx, func() error {
		if done, why := ok(); !done {
			return errors.New(why)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("cannot see %s after %s: %w", what, limit, err)
	}
	return nil
}

// list asks a host's containerd for the containers of all pods.
func list(ctx context.Context, h *lab.Host) ([]runtime.Container, error) {
	rt, err := runtime.Open(runtime.Options{
		Address: fmt.Sprintf("/proc/%d/root/run/containerd/containerd.sock", h.Holder.PID),
		Node:    h.Name,
	})
	if err != nil {
		return nil, err
	}
	defer func() { _ = rt.Close() }()
	return rt.List(ctx)
}

// process is the first process of a container, with its start time: ids are used again.
type process struct {
	pid   uint32
	start string
}

// processes are those of the containers that no test may restart, by pod and container.
func (w *world) processes() map[string]process {
	w.t.Helper()
	out := map[string]process{}
	for _, h := range w.agents {
		var found []runtime.Container
		w.await("the containers of "+h.Name, func() (bool, string) {
			var err error
			found, err = list(w.ctx, h)
			return err == nil, fmt.Sprint(err)
		})
		for _, c := range found {
			app := strings.SplitN(c.PodName, "-", 2)[0]
			if c.State == runtime.Running && (app == "printer" || app == "web" || app == "victim") && !w.used[c.PodName] {
				out[c.PodName+"/"+c.Name] = process{c.PID, startTime(c.PID)}
			}
		}
	}
	return out
}

// startTime is field 22 of /proc/PID/stat; empty for a process that is gone.
func startTime(pid uint32) string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	return fields[19]
}

// changed are the containers of before whose process is another one now.
func changed(before, now map[string]process) []string {
	var out []string
	for name, p := range before {
		if now[name] != p || p.start == "" {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// report prints the ends of the services' logs.
func (w *world) report() {
	for _, h := range w.lab.Hosts() {
		for _, s := range []string{lab.Daemon, lab.Agent} {
			raw, err := os.ReadFile(h.LogFile(s))
			if err != nil {
				continue
			}
			w.t.Logf("--- %s on %s ---\n%s", s, h.Name, raw[max(0, len(raw)-6000):])
		}
		w.t.Logf("--- what the agent on %s does ---\n%s", h.Name, w.doing(h))
	}
	// Again, below all that.
	if *w.failure != nil {
		w.t.Log(*w.failure)
	}
}

// doing ends the host's agent and returns where its goroutines stood that were about pods.
func (w *world) doing(h *lab.Host) string {
	pid := h.PID(lab.Agent)
	if pid == 0 {
		return "no agent runs"
	}
	before, _ := os.Stat(h.LogFile(lab.Agent))
	if err := syscall.Kill(pid, syscall.SIGQUIT); err != nil {
		return err.Error()
	}
	_ = until(context.Background(), 5*time.Second, "the agent's end", func() (bool, string) { return h.PID(lab.Agent) == 0, "" })
	raw, err := os.ReadFile(h.LogFile(lab.Agent))
	if err != nil || before == nil {
		return fmt.Sprint(err)
	}
	var out []string
	for stack := range strings.SplitSeq(string(raw[min(int(before.Size()), len(raw)):]), "\n\n") {
		if strings.Contains(stack, "nodeagent/pod.(*Pod).do(") {
			out = append(out, stack)
		}
	}
	text := fmt.Sprintf("%d steps are under way\n%s", len(out), strings.Join(out, "\n\n"))
	return text[:min(len(text), 6000)]
}
