package faults

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/internal/sleep"
	"lockstep/lab"
)

const (
	// rulesLimit is within what rules that somebody changed are promised to be back.
	rulesLimit = 10 * time.Second
	// waitLimit is what a container that prints may wait at most.
	waitLimit = 100 * time.Millisecond
)

// fault breaks something. It returns once the damage is done, with what tells whether it is repaired. The time to
// repair counts from then, or from the restart of what was killed.
type fault struct {
	name string
	do   func(w *world, h *lab.Host) (repaired func() (bool, string))
	// limit is how long the repair may take.
	limit time.Duration
	// rules says that only the node's rules are touched.
	rules bool
}

var all = []fault{
	{name: "container killed by hand", do: (*world).killContainer, limit: patience},
	{name: "agent killed", do: (*world).killAgent, limit: patience},
	{name: "containerd killed", do: (*world).killContainerd, limit: patience},
	{name: "daemon killed", do: (*world).killDaemon, limit: patience},
	{name: "all rules flushed", do: (*world).flushRules, limit: rulesLimit, rules: true},
	{name: "one rule removed", do: (*world).removeRule, limit: rulesLimit, rules: true},
	{name: "foreign rule in our chain", do: (*world).insertRule, limit: rulesLimit, rules: true},
	{name: "our jump moved", do: (*world).moveJump, limit: rulesLimit, rules: true},
}

// activities are what goes on while a fault strikes. Each begins and returns once it is under way.
var activities = []struct {
	name  string
	begin func(w *world, h *lab.Host)
}{
	{"nothing", func(*world, *lab.Host) {}},
	{"pull", (*world).beginPull},
	{"create", (*world).beginCreate},
	{"stop", (*world).beginStop},
	{"rollout", (*world).beginRollout},
}

// result is what one fault came to.
type result struct {
	repaired time.Duration
	settled  time.Duration // until nothing was left to do, what went on meanwhile included
	changed  []string
	lost     int64
	longest  time.Duration // the longest that the printer waited for its output to be taken
	starved  time.Duration // of it, how long those that take it got no processor, at most
}

func TestFaults(t *testing.T) {
	n, seed := number(t, "LOCKSTEP_FAULTS", 2), uint64(number(t, "LOCKSTEP_SEED", int(time.Now().UnixNano()%1_000_000)))
	t.Logf("seed %d (LOCKSTEP_SEED=%d runs the same faults again), %d of each (LOCKSTEP_FAULTS)", seed, seed, n)
	w := newWorld(t, seed, 4)
	for _, h := range w.agents {
		w.addForeign(h)
	}
	ok := t.Run("seeded", func(t *testing.T) { w.with(t).seeded(n) })
	for _, scenario := range scenarios(n) {
		if ok {
			ok = t.Run(scenario.name, func(t *testing.T) { scenario.run(w.with(t)) })
		}
	}
}

func number(t *testing.T, variable string, otherwise int) int {
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		t.Fatalf("%s=%s is not a number", variable, text)
	}
	return n
}

// with is the same world, failing another test.
func (w *world) with(t *testing.T) *world {
	other := *w
	other.t = t
	t.Cleanup(func() { w.round = other.round })
	return &other
}

func (w *world) seeded(n int) {
	results := map[string][]result{}
	w.t.Cleanup(func() { w.t.Log("\n" + table(results)) })
	offset := w.random.IntN(len(activities))
	for i := range n {
		order := w.random.Perm(len(all))
		for _, k := range order {
			f, during := all[k], activities[(i+k+offset)%len(activities)]
			h := w.agents[0]
			if i%4 == 3 {
				h = w.agents[1]
			}
			r := w.strike(f, during.name, during.begin, h)
			w.t.Logf("%-26s during %-8s on %s: repaired in %4d ms, all settled in %5d ms, %d processes changed, %d lines lost, "+
				"longest wait %s (%s without a processor)", f.name, during.name,
				strings.TrimPrefix(h.Name, "faults-"), r.repaired.Milliseconds(), r.settled.Milliseconds(), len(r.changed), r.lost,
				r.longest.Round(time.Millisecond), r.starved.Round(time.Millisecond))
			results[f.name] = append(results[f.name], r)
			w.judge(f, r)
		}
	}
}

// judge fails the test for what may not happen. What a busy machine makes everybody wait is not Lockstep's doing.
func (w *world) judge(f fault, r result) {
	w.t.Helper()
	if len(r.changed) > 0 {
		w.t.Errorf("%s: these containers were restarted: %s", f.name, strings.Join(r.changed, ", "))
	}
	for _, pid := range w.starved.pids {
		if startTime(uint32(pid)) == "" {
			w.t.Errorf("%s: the printer's shim or the log keeper, process %d, has ended", f.name, pid)
		}
	}
	if r.lost > 0 {
		w.t.Errorf("%s: %d lines are lost", f.name, r.lost)
	}
	if r.longest-r.starved >= waitLimit {
		w.t.Errorf("%s: the printer waited %s, of which only %s for lack of a processor", f.name, r.longest, r.starved)
	}
}

func table(results map[string][]result) string {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(w, "fault\tcount\trepaired min\tp50\tmax\tPIDs changed\tlines lost\tlongest wait\tno processor\t")
	for _, f := range all {
		list := results[f.name]
		if len(list) == 0 {
			continue
		}
		slices.SortFunc(list, func(a, b result) int { return int(a.repaired - b.repaired) })
		var sum result
		for _, r := range list {
			sum.changed = append(sum.changed, r.changed...)
			sum.lost += r.lost
			if r.longest > sum.longest {
				sum.longest, sum.starved = r.longest, r.starved
			}
		}
		ms := func(r result) string { return fmt.Sprintf("%d ms", r.repaired.Milliseconds()) }
		_, _ = fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%d\t%d\t%d ms\t%d ms\t\n", f.name, len(list), ms(list[0]),
			ms(list[(len(list)-1)/2]), ms(list[len(list)-1]),
			len(sum.changed), sum.lost, sum.longest.Milliseconds(), sum.starved.Milliseconds())
	}
	_ = w.Flush()
	return out.String()
}

// strike carries one fault out while something else goes on, and sees the end of both.
func (w *world) strike(f fault, during string, begin func(*world, *lab.Host), h *lab.Host) (r result) {
	w.t.Helper()
	w.renewVictims(1)
	w.prepare(during)
	before, foreign := w.processes(), w.foreign(h)
	lost := w.mark()
	begin(w, h)
	sleep.For(w.ctx, time.Duration(w.random.IntN(400))*time.Millisecond)
	w.began = time.Time{}
	repaired := f.do(w, h)
	began := w.began
	if began.IsZero() {
		began = time.Now()
	}
	if err := until(w.ctx, f.limit, "the repair after: "+f.name+", during "+during, repaired); err != nil {
		w.t.Fatal(err)
	}
	r.repaired = time.Since(began)
	if now := w.foreign(h); now != foreign && f.name != "all rules flushed" {
		w.t.Errorf("%s: others' rules changed from\n%s\nto\n%s", f.name, foreign, now)
	}
	w.settle("the end of " + during + " after: " + f.name)
	r.settled = time.Since(began)
	now := w.processes()
	for name := range before {
		if w.used[strings.SplitN(name, "/", 2)[0]] {
			delete(before, name)
		}
	}
	r.changed = changed(before, now)
	w.restarts(f.name)
	r.lost, r.longest, r.starved = w.since(lost)
	return r
}

// restarts fails if a container was restarted whose process no fault had killed.
func (w *world) restarts(after string) {
	w.t.Helper()
	for name := range w.apps {
		for _, p := range w.pods(name) {
			for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
				if c.RestartCount > 0 && !w.used[p.Name] {
					w.t.Errorf("%s: container %s of %s was restarted: %+v", after, c.Name, p.Name, c.LastTerminationState.Terminated)
					w.used[p.Name] = true // said once
				}
			}
		}
	}
}

// mark begins a window: it returns how many lines have been lost by now.
func (w *world) mark() int64 {
	w.t.Helper()
	if _, err := w.ask(); err != nil {
		w.t.Fatal(err)
	}
	w.starved.forget()
	return w.lines.lost.Load()
}

// since ends the window.
func (w *world) since(lost int64) (lines int64, longest, starved time.Duration) {
	w.t.Helper()
	s, err := w.ask()
	if err != nil {
		w.t.Fatal(err)
	}
	now, err := w.lines.reach(w.ctx, s.Lines)
	if err != nil {
		w.t.Fatal(err)
	}
	return now - lost, s.Longest, min(w.starved.within(s.Until.Add(-s.Longest), s.Until), s.Longest)
}

// renewVictims sees to it that each host has so many containers that may be killed and never were: another restart of one
// would have to wait for its backoff.
func (w *world) renewVictims(count int) {
	w.t.Helper()
	renewed := false
	for _, h := range w.agents {
		if len(w.fresh(h)) < count {
			w.apps[victim(h)].round = w.nextRound()
			w.state(victim(h))
			renewed = true
		}
	}
	if renewed {
		w.settle("new victims")
	}
}

func (w *world) fresh(h *lab.Host) []corev1.Pod {
	return slices.DeleteFunc(w.pods(victim(h)), func(p corev1.Pod) bool { return w.used[p.Name] || p.DeletionTimestamp != nil })
}

// kill kills the process of a victim on the host and returns what tells that it runs again.
func (w *world) kill(h *lab.Host) (repaired func() (bool, string)) {
	w.t.Helper()
	pods := w.fresh(h)
	if len(pods) == 0 {
		w.t.Fatalf("no container of %s is left to kill", h.Name)
	}
	pod := pods[w.random.IntN(len(pods))]
	p, ok := w.processes()[pod.Name+"/main"]
	if !ok {
		w.t.Fatalf("pod %s has no process", pod.Name)
	}
	w.used[pod.Name] = true
	if err := syscall.Kill(int(p.pid), syscall.SIGKILL); err != nil {
		w.t.Fatal(err)
	}
	return func() (bool, string) { return w.restarted(pod.Name) }
}

// restarted says whether the API shows a pod's container running again after one exit.
func (w *world) restarted(pod string) (bool, string) {
	p, err := w.client.CoreV1().Pods(namespace).Get(w.ctx, pod, metav1.GetOptions{})
	if err != nil {
		return false, err.Error()
	}
	if len(p.Status.ContainerStatuses) == 0 {
		return false, "it has no status"
	}
	c := p.Status.ContainerStatuses[0]
	return c.Ready && c.RestartCount == 1 && c.LastTerminationState.Terminated != nil, describe([]corev1.Pod{*p}, p.Labels["app"])
}

func (w *world) killContainer(h *lab.Host) func() (bool, string) { return w.kill(h) }

// killAgent also kills a container meanwhile, which the agent must find when it is back.
func (w *world) killAgent(h *lab.Host) func() (bool, string) {
	w.killService(h, lab.Agent)
	repaired := w.kill(h)
	w.stayDown()
	w.startService(h, lab.Agent)
	return repaired
}

// killContainerd also kills a container meanwhile, whose end no event tells.
func (w *world) killContainerd(h *lab.Host) func() (bool, string) {
	pods := w.fresh(h)
	pod := pods[w.random.IntN(len(pods))]
	p := w.processes()[pod.Name+"/main"]
	w.used[pod.Name] = true
	w.killService(h, lab.Containerd)
	if err := syscall.Kill(int(p.pid), syscall.SIGKILL); err != nil {
		w.t.Fatal(err)
	}
	w.stayDown()
	w.startService(h, lab.Containerd)
	return func() (bool, string) { return w.restarted(pod.Name) }
}

// killDaemon also changes the source meanwhile; the change must be made once the daemon is back.
func (w *world) killDaemon(*lab.Host) func() (bool, string) {
	server := w.lab.Server()
	w.killService(server, lab.Daemon)
	stated := w.nextRound()
	w.write("stated.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: stated, namespace: "+namespace+
		"}\ndata: {round: \""+stated+"\"}\n")
	w.stayDown()
	w.startService(server, lab.Daemon)
	return func() (bool, string) {
		m, err := w.client.CoreV1().ConfigMaps(namespace).Get(w.ctx, "stated", metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		return m.Data["round"] == stated, "it has round " + m.Data["round"]
	}
}

func (w *world) killService(h *lab.Host, service string) {
	w.t.Helper()
	if err := w.lab.Kill(w.ctx, h, service); err != nil {
		w.t.Fatal(err)
	}
}

// stayDown leaves what was killed alone for a while.
func (w *world) stayDown() { sleep.For(w.ctx, time.Duration(w.random.IntN(1500))*time.Millisecond) }

func (w *world) startService(h *lab.Host, service string) {
	w.t.Helper()
	w.began = time.Now()
	if err := w.lab.Start(w.ctx, h, service); err != nil {
		w.t.Fatal(err)
	}
}

// prepare makes what an activity needs before it can begin.
func (w *world) prepare(during string) {
	w.t.Helper()
	slow := w.apps["slow"]
	switch {
	case during == "create" && slow != nil && slow.replicas > 0:
		slow.replicas = 0
		w.state("slow")
	case during == "stop" && (slow == nil || slow.replicas == 0):
		w.slow(2)
	default:
		return
	}
	w.settle("what goes before " + during)
}

func (w *world) slow(replicas int) {
	w.apps["slow"] = &app{replicas: replicas, spec: "      terminationGracePeriodSeconds: 20\n      initContainers:\n" +
		"      - {name: first, image: \"" + loadImage + "\", args: [sleep, 500ms]}\n"}
	w.fill(w.apps["slow"])
	w.state("slow")
}

func (w *world) beginCreate(*lab.Host) {
	w.slow(2)
	w.underWay("slow", "a pod that is being made", func(p *corev1.Pod) bool { return p.Spec.NodeName != "" })
}

func (w *world) beginStop(*lab.Host) {
	w.apps["slow"].replicas = 0
	w.state("slow")
	w.underWay("slow", "a pod that is being stopped", func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
}

func (w *world) beginRollout(*lab.Host) {
	round := w.nextRound()
	w.apps["roll"].round = round
	w.state("roll")
	w.underWay("roll", "a pod of the new rollout", func(p *corev1.Pod) bool { return p.Annotations["round"] == round })
}

func (w *world) beginPull(h *lab.Host) {
	image, pulling := w.registry.add(w.t, fmt.Sprintf("%d-%d", os.Getpid(), rand.Uint32()))
	w.apps["pull"] = &app{replicas: 1, image: image, node: h.Name}
	w.fill(w.apps["pull"])
	w.state("pull")
	select {
	case <-pulling:
	case <-time.After(patience):
		w.t.Fatalf("nobody pulls %s", image)
	}
}

func (w *world) underWay(app, what string, is func(*corev1.Pod) bool) {
	w.t.Helper()
	w.await(what, func() (bool, string) {
		pods := w.pods(app)
		return slices.ContainsFunc(pods, func(p corev1.Pod) bool { return is(&p) }), describe(pods, app)
	})
}
