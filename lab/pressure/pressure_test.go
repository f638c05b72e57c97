package pressure

import (
	"context"
	"errors"
	"fmt"
	"os"
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
	"lockstep/lab"
	"lockstep/lab/image"
)

// patience is how long the test waits for what should take some seconds: other tests share the machine.
const patience = 2 * time.Minute

// leftAlone is how long an image stays in any case, since a pod may just be coming for it; the kubelet's figure, and a little more.
const leftAlone = 2*time.Minute + 10*time.Second

// world is a cluster of two nodes, of which the first is small: it has a disk of 64 MiB and 4,000 inodes, and sees a memory of 1 GiB
// and as many processes as the test says.
type world struct {
	*testing.T
	lab    *lab.Lab
	small  *lab.Host
	source string
	client *kubernetes.Clientset
}

// TestShort has a node run short of memory, then of disk, of inodes and of processes: pods go in the right order, after images that
// nobody uses, and come back on the other node.
func TestShort(t *testing.T) {
	w := up(t)
	w.write("pods.yaml", strings.Join([]string{
		classes,
		deployment("greedy", "", "", "take, '20'", ""),
		deployment("modest", "", "{requests: {memory: 300Mi, ephemeral-storage: 10Mi}}", "wait", ""),
		deployment("important", "important", "{requests: {memory: 300Mi, ephemeral-storage: 10Mi}}", "wait", ""),
		deployment("vital", "system-node-critical", "", "wait", ""),
	}, "---\n"))
	for _, name := range []string{"greedy", "modest", "important", "vital"} {
		w.runs(name, w.small.Name)
	}

	// One that ends at once leaves an image that nobody uses.
	w.write("idler.yaml", strings.Replace(deployment("idler", "", "", "wait", ""), "standin:1", "idle:1", 1))
	w.runs("idler", w.small.Name)
	came := time.Now()
	if err := os.Remove(filepath.Join(w.source, "idler.yaml")); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 5*patience)
	defer cancel()
	order := w.watchEvictions(ctx)
	w.memory(50)
	w.condition(corev1.NodeMemoryPressure)
	for _, want := range []string{"greedy", "modest", "important"} {
		p := next(ctx, w, order)
		if p.Labels["app"] != want {
			t.Fatalf("%s goes, want %s: %s", p.Name, want, p.Status.Message)
		}
		message := "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. "
		if want == "greedy" {
			message += "Container main was using "
		}
		if !strings.HasPrefix(p.Status.Message, message) {
			t.Errorf("%s goes: %q", want, p.Status.Message)
		}
		i := slices.IndexFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.DisruptionTarget })
		if i < 0 || p.Status.Conditions[i].Reason != "TerminationByKubelet" {
			t.Errorf("%s is not disrupted: %+v", want, p.Status.Conditions)
		}
	}
	w.memory(900)
	for _, name := range []string{"greedy", "modest", "important"} {
		w.runs(name, "")
	}
	w.runs("vital", w.small.Name)
	w.tainted(corev1.TaintNodeMemoryPressure)

	// Of four that the node takes in spite of that, each goes for what it does, and the others stay until then.
	const tolerates = "{key: node.kubernetes.io/memory-pressure, operator: Exists}"
	pods := map[string]*corev1.Pod{}
	for name, class := range map[string]string{"writer": "", "maker": "", "low": "", "high": "important"} {
		w.write(name+".yaml", deployment(name, class, "", "wait", tolerates))
	}
	for _, name := range []string{"writer", "maker", "low", "high"} {
		pods[name] = w.runs(name, w.small.Name)
	}
	goes := func(name, resource string) {
		t.Helper()
		p := next(ctx, w, order)
		if message := "The node was low on resource: " + resource + ". Threshold quantity: "; p.UID != pods[name].UID ||
			!strings.HasPrefix(p.Status.Message, message) {
			t.Errorf("%s goes, want %s: %s", p.Name, name, p.Status.Message)
		}
	}
	// What volumes take is measured once a minute, as by the kubelet: who takes much has done so for a while.
	w.fill(ctx, pods["writer"], "dd if=/dev/zero of=$d/begun bs=1M count=10 2>&1")
	w.fill(ctx, pods["maker"], "cd $d && seq -f begun%.0f 1000 | xargs touch")
	w.idle(ctx, true)
	if err := eventually.Do(ctx, func() error {
		if age := time.Since(came); age < leftAlone {
			return fmt.Errorf("an image that nobody uses came %s ago", age)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	w.fill(ctx, pods["writer"], "dd if=/dev/zero of=$d/big bs=1M count=$(($(df --output=avail -m $d | tail -1) - 3)) 2>&1")
	goes("writer", "ephemeral-storage")
	w.condition(corev1.NodeDiskPressure)
	w.idle(ctx, false) // images that nobody uses went before it
	w.fill(ctx, pods["maker"], "cd $d && seq $(($(df --output=iavail $d | tail -1) - 60)) | xargs touch")
	goes("maker", "inodes")
	w.pids(0.9)
	goes("low", "pids")
	goes("high", "pids")
	w.condition(corev1.NodePIDPressure)
	for name, p := range pods {
		w.runs(name, w.lab.Agents()[1].Name)
		w.event(p, "Evicted")
	}
	w.runs("vital", w.small.Name)
}

// fill runs a script with the folder $d, which a pod on the small node has as its volume.
func (w *world) fill(ctx context.Context, p *corev1.Pod, script string) {
	w.Helper()
	volumes := filepath.Join(w.small.DataDir(), "volumes")
	out, err := w.small.Run(ctx, "sh", "-c", `d=$(find `+volumes+` -type d -path '*`+string(p.UID)+`*' -name data | head -1)
		test -n "$d" && `+script)
	if err != nil {
		w.Fatalf("cannot fill the disk: %v: %s", err, out)
	}
}

// idle waits until an image that no pod uses is on the small node, or is not.
func (w *world) idle(ctx context.Context, want bool) {
	w.Helper()
	w.eventually("an image that nobody uses", func() error {
		out, err := w.small.Run(ctx, "ctr", "-n", "lockstep", "images", "ls", "-q")
		if err == nil && strings.Contains(out, "idle:1") != want {
			err = fmt.Errorf("images %s", out)
		}
		return err
	})
}

// event wants that something was told of a pod.
func (w *world) event(p *corev1.Pod, reason string) {
	w.Helper()
	w.eventually(reason+" is told of "+p.Name, func() error {
		list, err := w.client.CoreV1().Events("mine").List(w.Context(), metav1.ListOptions{
			FieldSelector: "involvedObject.name=" + p.Name + ",reason=" + reason})
		if err == nil && len(list.Items) == 0 {
			err = errors.New("no such event")
		}
		return err
	})
}

const classes = `apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: important}
value: 1000
`

// deployment is of one pod, which is on the small node if that takes it.
func deployment(name, class, resources, args, tolerations string) string {
	if resources == "" {
		resources = "{}"
	}
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s, namespace: mine}
spec:
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      priorityClassName: %[2]q
      terminationGracePeriodSeconds: 1
      tolerations: [%[5]s]
      affinity:
        nodeAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
          - weight: 100
            preference: {matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [pressure-agent1]}]}
      containers:
      - {name: main, image: "standin:1", args: [%[4]s], resources: %[3]s, volumeMounts: [{name: data, mountPath: /data}]}
      volumes: [{name: data, emptyDir: {}}]
`, name, class, resources, args, tolerations)
}

func up(t *testing.T) *world {
	w := &world{T: t, source: t.TempDir()}
	w.write("namespace.yaml", "{apiVersion: v1, kind: Namespace, metadata: {name: mine}}\n")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var err error
	w.lab, err = lab.Up(ctx, lab.Options{
		Dir: filepath.Join(t.TempDir(), "lab"), Lockstep: lockstep, Self: lockstepLab, Agents: 2, Prefix: "pressure-",
		Sources: []string{w.source}, Eviction: "memory.available<100Mi,nodefs.available<6Mi,nodefs.inodesFree<5%,pid.available<5%",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := w.lab.Down(ctx); err != nil {
			t.Error(err)
		}
	})
	for _, name := range []string{"standin", "idle"} {
		tar := filepath.Join(t.TempDir(), name+".tar")
		if err := errors.Join(image.SaveProgram(tar, name+":1", standin, "/"+name), w.lab.Images(ctx, tar)); err != nil {
			t.Fatal(err)
		}
	}
	if w.client, err = w.lab.Client(ctx); err != nil {
		t.Fatal(err)
	}
	w.small = w.lab.Agents()[0]
	w.shrink(ctx)
	return w
}

// meminfo is the file that the small node has for /proc/meminfo.
func (w *world) meminfo() string { return filepath.Join(w.small.Dir, "meminfo") }

// shrink gives the node a small disk, and a small memory to look at: what a container takes is what it takes.
func (w *world) shrink(ctx context.Context) {
	w.Helper()
	w.memory(900)
	w.pids(100)
	if err := w.lab.Stop(ctx, w.small, lab.Agent); err != nil {
		w.Fatal(err)
	}
	out, err := w.small.Run(ctx, "sh", "-ec", `cp -a "$1" "$1.old"
		mount -t tmpfs -o size=64m,nr_inodes=4000 none "$1"; cp -a "$1.old/." "$1"
		mount --bind "$2" /proc/meminfo; mount --bind "$3" /proc/sys/kernel/pid_max`,
		"sh", w.small.DataDir(), w.meminfo(), w.pidMax())
	if err != nil {
		w.Fatalf("cannot make the node small: %v: %s", err, out)
	}
	if err := w.lab.Start(ctx, w.small, lab.Agent); err != nil {
		w.Fatal(err)
	}
	w.eventually("a node of 1 GiB", func() error {
		n, err := w.client.CoreV1().Nodes().Get(ctx, w.small.Name, metav1.GetOptions{})
		if err == nil && n.Status.Capacity.Memory().Value() != 1<<30 {
			err = fmt.Errorf("it has %s", n.Status.Capacity.Memory())
		}
		return err
	})
}

// pidMax is the file that it has for /proc/sys/kernel/pid_max.
func (w *world) pidMax() string { return filepath.Join(w.small.Dir, "pid_max") }

// pids says how many processes and threads the node can have, by those that the machine has now.
func (w *world) pids(times float64) {
	w.Helper()
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		w.Fatal(err)
	}
	_, all, _ := strings.Cut(strings.Fields(string(data))[3], "/")
	now, err := strconv.ParseFloat(all, 64)
	if err != nil {
		w.Fatal(err)
	}
	w.inPlace(w.pidMax(), fmt.Sprintf("%-20d\n", int(now*times)))
}

// memory says how much the node has left, in MiB.
func (w *world) memory(left int) {
	w.Helper()
	text := fmt.Sprintf("MemTotal: %d kB\nMemFree: %d kB\nInactive(file): 0 kB\nActive(file): 0 kB\nSwapTotal: 0 kB\n", 1<<20, left<<10)
	w.inPlace(w.meminfo(), fmt.Sprintf("%-200s", text))
}

// inPlace writes a file that is mounted, always the same number of bytes.
func (w *world) inPlace(path, text string) {
	w.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = f.WriteString(text)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) write(name, text string) {
	w.Helper()
	if err := os.WriteFile(filepath.Join(w.source, name), []byte(text), 0o644); err != nil {
		w.Fatal(err)
	}
}

func (w *world) eventually(what string, check func() error) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), patience)
	defer cancel()
	if err := eventually.Do(ctx, check); err != nil {
		status, _ := w.lab.Server().Run(context.WithoutCancel(ctx), lockstep, "status", "--data-dir", w.lab.Server().DataDir())
		w.Fatalf("%s: not within %s: %v\n%s", what, patience, err, status)
	}
}

// runs waits for the Deployment's pod to be ready, on a node where one is named, and returns it.
func (w *world) runs(name, node string) (pod *corev1.Pod) {
	w.Helper()
	w.eventually(name+" runs", func() error {
		list, err := w.client.CoreV1().Pods("mine").List(w.Context(), metav1.ListOptions{LabelSelector: "app=" + name})
		if err != nil {
			return err
		}
		for i := range list.Items {
			p := &list.Items[i]
			ready := slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
				return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
			})
			if ready && p.DeletionTimestamp == nil && (node == "" || p.Spec.NodeName == node) {
				pod = p
				return nil
			}
		}
		return fmt.Errorf("pods %v", phases(list.Items))
	})
	return pod
}

func phases(pods []corev1.Pod) (out []string) {
	for i := range pods {
		p := &pods[i]
		out = append(out, fmt.Sprintf("%s on %q is %s %s", p.Name, p.Spec.NodeName, p.Status.Phase, p.Status.Message))
	}
	return out
}

// condition waits for the small node to say that it is short.
func (w *world) condition(of corev1.NodeConditionType) {
	w.Helper()
	w.eventually(string(of), func() error {
		n, err := w.client.CoreV1().Nodes().Get(w.Context(), w.small.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range n.Status.Conditions {
			if c.Type == of && c.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("conditions %v", n.Status.Conditions)
	})
}

// tainted waits for the small node to have the taint that its condition brings.
func (w *world) tainted(key string) {
	w.Helper()
	w.eventually(key, func() error {
		n, err := w.client.CoreV1().Nodes().Get(w.Context(), w.small.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		is := func(t corev1.Taint) bool { return t.Key == key && t.Effect == corev1.TaintEffectNoSchedule }
		if !slices.ContainsFunc(n.Spec.Taints, is) {
			return fmt.Errorf("taints %v", n.Spec.Taints)
		}
		return nil
	})
}

// watchEvictions sends each pod that has been evicted, in that order.
func (w *world) watchEvictions(ctx context.Context) <-chan *corev1.Pod {
	w.Helper()
	list, err := w.client.CoreV1().Pods("mine").List(ctx, metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	watch, err := w.client.CoreV1().Pods("mine").Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(watch.Stop)
	out := make(chan *corev1.Pod, 100) // more than ever go
	go func() {
		defer close(out)
		seen := map[string]bool{}
		for e := range watch.ResultChan() {
			if p, ok := e.Object.(*corev1.Pod); ok && p.Status.Reason == "Evicted" && !seen[p.Name] {
				seen[p.Name] = true
				out <- p
			}
		}
	}()
	return out
}

func next(ctx context.Context, w *world, order <-chan *corev1.Pod) *corev1.Pod {
	w.Helper()
	select {
	case p, ok := <-order:
		if !ok {
			w.Fatal("the watch has ended")
		}
		return p
	case <-ctx.Done():
		w.Fatal("no pod is evicted")
	}
	return nil
}
