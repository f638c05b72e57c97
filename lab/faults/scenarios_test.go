package faults

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/internal/sleep"
	"lockstep/kinds"
	"lockstep/lab"
	"lockstep/nodeagent/runtime"
)

type scenario struct {
	name string
	run  func(w *world)
}

// scenarios follow the seeded faults in the same lab. The long ones come only with many faults.
func scenarios(n int) []scenario {
	out := []scenario{
		{"stalled shim", (*world).stalledShim},
		{"postStart hook interrupted", (*world).hookInterrupted},
		{"server away", (*world).serverAway},
		{"reboot", (*world).reboot},
		{"reboot while the server is away", (*world).rebootAlone},
	}
	rounds := 3
	if n >= 10 {
		out = append(out, scenario{"cut for 45 s", (*world).cut})
		rounds = 5 * n / 2
	}
	out = append(out, scenario{"data", func(w *world) { w.keepsData(rounds) }})
	return out
}

// stalledShim shows that the measure measures: a shim that stands still lets its container wait, for no lack of a
// processor, and loses nothing.
func (w *world) stalledShim() {
	const stall = time.Second
	shim := w.starved.pids[0]
	lost := w.mark()
	if err := syscall.Kill(shim, syscall.SIGSTOP); err != nil {
		w.t.Fatal(err)
	}
	sleep.For(w.ctx, stall)
	if err := syscall.Kill(shim, syscall.SIGCONT); err != nil {
		w.t.Fatal(err)
	}
	lines, longest, starved := int64(0), time.Duration(0), time.Duration(0)
	w.await("the end of the printer's wait", func() (bool, string) {
		lines, longest, starved = w.since(lost)
		return longest >= stall/2, longest.String()
	})
	if longest-starved < waitLimit || lines > 0 {
		w.t.Errorf("the printer waited %s, of it %s for lack of a processor, and %d lines are lost", longest, starved, lines)
	}
}

// hookInterrupted: a postStart hook during which the agent or containerd is killed runs again, and its container is not
// restarted for it.
func (w *world) hookInterrupted() {
	h := w.agents[1]
	w.apps["hook"] = &app{replicas: 1, node: h.Name}
	w.fill(w.apps["hook"])
	for _, service := range []string{lab.Agent, lab.Containerd} {
		w.apps["hook"].round = w.nextRound()
		w.state("hook")
		var pod corev1.Pod
		w.await("a new pod with a hook", func() (bool, string) {
			pods := w.pods("hook")
			i := slices.IndexFunc(pods, func(p corev1.Pod) bool { return p.Annotations["round"] == w.apps["hook"].round })
			if i >= 0 {
				pod = pods[i]
			}
			return i >= 0, describe(pods, "hook")
		})
		c := w.running(h, pod.Name)
		if err := w.lab.Kill(w.ctx, h, service); err != nil {
			w.t.Fatal(err)
		}
		w.startService(h, service)
		w.settle("a pod whose hook was interrupted by the end of " + service)
		if now := w.running(h, pod.Name); now.PID != c.PID {
			w.t.Errorf("its container was restarted when %s was killed", service)
		}
	}
}

// unchanged fails if a container was restarted that no test had hit.
func (w *world) unchanged(before map[string]process) {
	w.t.Helper()
	for name := range before {
		if w.used[strings.SplitN(name, "/", 2)[0]] {
			delete(before, name)
		}
	}
	if c := changed(before, w.processes()); len(c) > 0 {
		w.t.Errorf("these containers were restarted: %s", strings.Join(c, ", "))
	}
}

// running is a pod's container on the host, once it runs.
func (w *world) running(h *lab.Host, pod string) (c runtime.Container) {
	w.t.Helper()
	w.await("a running container of "+pod, func() (bool, string) {
		found, err := list(w.ctx, h)
		i := slices.IndexFunc(found, func(c runtime.Container) bool {
			return c.PodName == pod && c.Name == "main" && c.State == runtime.Running
		})
		if i >= 0 {
			c = found[i]
		}
		return i >= 0, fmt.Sprint(err)
	})
	return c
}

// serverAway: nodes go on by themselves, also when their agent is killed; what was pushed is carried out afterwards.
func (w *world) serverAway() {
	w.renewVictims(2)
	before, server, h := w.processes(), w.lab.Server(), w.agents[1]
	address := w.serviceAddress("web")
	w.killService(server, lab.Daemon)
	for _, h := range w.agents {
		w.reaches(h, address)
	}
	w.restartsAlone(h)
	if err := w.lab.Kill(w.ctx, h, lab.Agent); err != nil {
		w.t.Fatal(err)
	}
	w.startService(h, lab.Agent)
	w.reaches(h, address)
	w.restartsAlone(h)
	w.apps["roll"].round = w.nextRound()
	w.state("roll")
	w.startService(server, lab.Daemon)
	w.settle("a rollout pushed while the server was away")
	w.t.Logf("carried out %d ms after the server's start", time.Since(w.began).Milliseconds())
	w.unchanged(before)
}

// restartsAlone kills a container on the host and waits for its successor without asking the API.
func (w *world) restartsAlone(h *lab.Host) {
	w.t.Helper()
	found, err := list(w.ctx, h)
	if err != nil {
		w.t.Fatal(err)
	}
	i := slices.IndexFunc(found, func(c runtime.Container) bool {
		return strings.HasPrefix(c.PodName, "victim-") && c.State == runtime.Running && c.Attempt == 0 && !w.used[c.PodName]
	})
	if i < 0 {
		w.t.Fatalf("no container of %s is left to kill", h.Name)
	}
	c := found[i]
	w.used[c.PodName] = true
	if err := syscall.Kill(int(c.PID), syscall.SIGKILL); err != nil {
		w.t.Fatal(err)
	}
	began := time.Now()
	w.await("the restart of a container without a server", func() (bool, string) {
		now := w.running(h, c.PodName)
		return now.Attempt == 1 && now.PID != c.PID, fmt.Sprintf("%+v", now)
	})
	w.t.Logf("restarted without a server after %d ms", time.Since(began).Milliseconds())
}

func (w *world) serviceAddress(name string) string {
	w.t.Helper()
	s, err := w.client.CoreV1().Services(namespace).Get(w.ctx, name, metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return s.Spec.ClusterIP
}

// reaches waits until the web service answers on the host, by its address and by its name.
func (w *world) reaches(h *lab.Host, address string) {
	w.t.Helper()
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (conn net.Conn, err error) {
		err = h.Do(func() error {
			conn, err = (&net.Dialer{}).DialContext(ctx, network, "10.43.0.10:53")
			return err
		})
		return conn, err
	}}
	began := time.Now()
	w.await("the web service on "+h.Name, func() (bool, string) {
		ctx, cancel := context.WithTimeout(w.ctx, 5*time.Second)
		defer cancel()
		found, err := resolver.LookupHost(ctx, "web."+namespace+".svc.cluster.local.")
		if err != nil || !slices.Contains(found, address) {
			return false, fmt.Sprint(found, err)
		}
		response, err := onHost(h).Get("http://" + address)
		if err != nil {
			return false, err.Error()
		}
		return response.Body.Close() == nil && response.StatusCode == 200, response.Status
	})
	w.t.Logf("reached by name and address on %s after %d ms", h.Name, time.Since(began).Milliseconds())
}

// here are the pods of a host by their uid, of the apps that stay.
func (w *world) here(h *lab.Host) map[string]corev1.Pod {
	out := map[string]corev1.Pod{}
	for name := range w.apps {
		for _, p := range w.pods(name) {
			if p.Spec.NodeName == h.Name {
				out[string(p.UID)] = p
			}
		}
	}
	return out
}

// backAgain waits until every pod of the host runs a newer instance of its container.
func (w *world) backAgain(h *lab.Host, before map[string]corev1.Pod) {
	w.t.Helper()
	w.await("the pods of "+h.Name, func() (bool, string) {
		found, err := list(w.ctx, h)
		if err != nil {
			return false, err.Error()
		}
		var missing []string
		for uid, p := range before {
			w.used[p.Name] = true
			if !slices.ContainsFunc(found, func(c runtime.Container) bool {
				return c.PodUID == uid && c.Name == "main" && c.State == runtime.Running &&
					c.Attempt > int(p.Status.ContainerStatuses[0].RestartCount)
			}) {
				missing = append(missing, p.Name)
			}
		}
		return len(missing) == 0, "these do not run: " + strings.Join(missing, ", ")
	})
	w.t.Logf("%d pods run again %d ms after the host's start", len(before), time.Since(w.began).Milliseconds())
}

// same fails if a pod was replaced by another one.
func (w *world) same(h *lab.Host, before map[string]corev1.Pod) {
	w.t.Helper()
	now := w.here(h)
	for uid, p := range before {
		if _, ok := now[uid]; !ok {
			w.t.Errorf("pod %s of %s was replaced", p.Name, h.Name)
		}
	}
}

// reboot: the pods of a host come back in place.
func (w *world) reboot() {
	h := w.agents[1]
	before, others := w.here(h), w.processes()
	w.began = time.Now()
	if err := w.lab.Reboot(w.ctx, h); err != nil {
		w.t.Fatal(err)
	}
	w.backAgain(h, before)
	w.settle("everything after a reboot")
	w.same(h, before)
	w.unchanged(others)
	for _, h := range w.agents {
		w.reaches(h, w.serviceAddress("web"))
	}
}

// rebootAlone: so they do without a server, from what the agent has kept.
func (w *world) rebootAlone() {
	h := w.agents[1]
	before, others, address := w.here(h), w.processes(), w.serviceAddress("web")
	w.killService(w.lab.Server(), lab.Daemon)
	w.began = time.Now()
	if err := w.lab.Reboot(w.ctx, h); err != nil {
		w.t.Fatal(err)
	}
	w.backAgain(h, before)
	w.reaches(h, address)
	w.startService(w.lab.Server(), lab.Daemon)
	w.settle("everything once the server is back")
	w.same(h, before)
	w.unchanged(others)
	w.reaches(w.agents[0], address)
}

// backLimit is within what a node that was cut off, and its pods, are in service again: 3 s are promised, and this machine is busy.
const backLimit = 10 * time.Second

// cut: a host off the network keeps its pods running, and they are the same when it is back, which is told soon.
func (w *world) cut() {
	w.renewVictims(2)
	h := w.agents[1]
	pods, before := w.here(h), w.processes()
	if err := w.lab.Cut(h); err != nil {
		w.t.Fatal(err)
	}
	began := time.Now()
	w.restartsAlone(h)
	sleep.For(w.ctx, 45*time.Second-time.Since(began))
	if is := w.nodeReady(h); is != corev1.ConditionUnknown {
		w.t.Errorf("after %s without a word node %s is Ready: %s", time.Since(began), h.Name, is)
	}
	w.unchanged(before)
	if err := w.lab.Heal(h); err != nil {
		w.t.Fatal(err)
	}
	began = time.Now()
	w.await("node "+h.Name+" ready again", func() (bool, string) { return w.nodeReady(h) == corev1.ConditionTrue, string(w.nodeReady(h)) })
	ready := time.Since(began)
	w.settle("everything once the network is back")
	settled := time.Since(began)
	w.t.Logf("ready again %d ms after the network, its pods %d ms", ready.Milliseconds(), settled.Milliseconds())
	if settled > backLimit {
		w.t.Errorf("the node was ready again after %s, its pods after %s: %s is the most", ready, settled, backLimit)
	}
	w.same(h, pods)
	w.unchanged(before)
	for _, h := range w.agents {
		w.reaches(h, w.serviceAddress("web"))
	}
}

func (w *world) nodeReady(h *lab.Host) corev1.ConditionStatus {
	n, err := w.client.CoreV1().Nodes().Get(w.ctx, h.Name, metav1.GetOptions{})
	if err != nil {
		return ""
	}
	if c := kinds.NodeCondition(n, corev1.NodeReady); c != nil {
		return c.Status
	}
	return ""
}
