// Package probes asks containers how they are.
package probes

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	kubeprobe "k8s.io/kubernetes/pkg/probe"
)

// maxRunning bounds the probes of one pod that run at a time: all three of ten containers that answer with nothing but
// a timeout. More would be a crowd of descriptors and, for commands, of processes; those that are due wait, for their
// own pod alone.
const maxRunning = 32

// Exec runs a command in a container and returns its exit code and output. It calls began when the command runs, from when on
// the probe's time-out counts. A command that runs when ctx ends is killed and an error returned: a failure, where that was the
// time-out's doing. Other errors leave the probe's state alone.
type Exec func(ctx context.Context, containerID string, command []string, began func()) (code int, output string, err error)

// Options are what a Manager needs.
type Options struct {
	// Exec runs commands. Required for exec probes.
	Exec Exec
	// Changed is called when Results of a pod changed. It must not block nor call back; many calls may be one to it.
	Changed func(pod types.UID)
	// Unhealthy is called with the message of each failure, for a Warning event with the reason Unhealthy about the
	// container (nil drops them). It must not block.
	Unhealthy func(pod types.UID, container, message string)
	// Warned is called with the message of each success that is not quite one, for a Warning event with the reason
	// ProbeWarning (nil drops them). It must not block.
	Warned func(pod types.UID, container, message string)
	// Probed, if not nil, is told of each probe: "success", "failure", or "error" where it could not be made. It must
	// not block.
	Probed func(kind Kind, result string, took time.Duration)
}

// Running is a container that runs.
type Running struct {
	Name      string
	ID        string
	StartedAt time.Time
	// Started and Ready are what the pod's status says of a container that ran before the agent did: it stays so
	// until a probe says otherwise. False for one that is new.
	Started, Ready bool
}

// Result is what is known of a running container.
type Result struct {
	ID string
	// Started: its startup probe has succeeded, or it has none. Ready: it has started, and its readiness probe
	// says so, or it has none.
	Started, Ready bool
	// Failed is the probe for which the container is to be killed, Startup or Liveness; empty when there is none.
	Failed Kind
	// Message is of the last failure of that probe, `Liveness probe failed: …`.
	Message string
}

// Manager runs probes. Its methods are safe for concurrent use.
type Manager struct {
	options Options
	run     runner
	now     func() time.Time
	wake    chan struct{}
	counts  *counts

	mu      sync.Mutex
	pods    map[types.UID]*pod
	running map[types.UID]int // attempts under way
}

type pod struct {
	object     *corev1.Pod
	ip         string
	containers map[string]*container
}

// container is a running container with its probes.
type container struct {
	running Running
	spec    *corev1.Container
	probes  []*probe

	alive context.Context // until it is replaced or forgotten
	end   context.CancelFunc
}

type probe struct {
	*state
	busy    bool
	message string // of the last failure
}

// New returns a manager that probes while Run runs.
func New(options Options) *Manager {
	return &Manager{
		options: options,
		run:     newRunner(options.Exec),
		now:     time.Now,
		wake:    make(chan struct{}, 1),
		counts:  newCounts(),
		pods:    map[types.UID]*pod{},
		running: map[types.UID]int{},
	}
}

// Set says which containers of a pod run, and at what address they are probed. A container whose id is new is probed
// from the beginning; one that is not named is not probed. Neither is changed, nor kept longer than until the next Set.
func (m *Manager) Set(object *corev1.Pod, running []Running, podIP string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.pods[object.UID]
	p := &pod{object: object, ip: podIP, containers: make(map[string]*container, len(running))}
	for _, r := range running {
		spec := findContainer(object, r.Name)
		if spec == nil {
			continue
		}
		if before != nil {
			if c := before.containers[r.Name]; c != nil && c.running.ID == r.ID {
				c.spec = spec
				p.containers[r.Name] = c
				continue
			}
		}
		p.containers[r.Name] = newContainer(r, spec)
	}
	if object.DeletionTimestamp != nil {
		p.quieten()
	}
	m.pods[object.UID] = p
	before.endAllBut(p)
	m.nudge()
}

// Remove ends the probing of a pod.
func (m *Manager) Remove(uid types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.pods[uid]
	p.endAllBut(nil)
	delete(m.pods, uid)
	if p != nil {
		m.counts.forget(p.object)
	}
}

// endAllBut ends the attempts at containers that a pod's next state does not have. Both may be nil.
func (p *pod) endAllBut(next *pod) {
	if p == nil {
		return
	}
	for name, c := range p.containers {
		if next == nil || next.containers[name] != c {
			c.end()
		}
	}
}

// Results returns what is known of the pod's running containers, by their names. It is the caller's.
func (m *Manager) Results(uid types.UID) map[string]Result {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.pods[uid]
	if p == nil {
		return nil
	}
	results := make(map[string]Result, len(p.containers))
	for name, c := range p.containers {
		results[name] = c.result()
	}
	return results
}

func newContainer(r Running, spec *corev1.Container) *container {
	c := &container{running: r, spec: spec}
	c.alive, c.end = context.WithCancel(context.Background())
	for _, of := range []struct {
		kind  Kind
		spec  *corev1.Probe
		known bool
	}{
		{Startup, spec.StartupProbe, r.Started}, {Readiness, spec.ReadinessProbe, r.Ready}, {Liveness, spec.LivenessProbe, false},
	} {
		if of.spec == nil {
			continue
		}
		s := newState(of.kind, of.spec)
		if of.known {
			s.passed = true
			s.hold = of.kind == Startup
		}
		c.probes = append(c.probes, &probe{state: s})
	}
	return c
}

func (c *container) started() bool {
	for _, p := range c.probes {
		if p.kind == Startup {
			return p.passed
		}
	}
	return true
}

func (c *container) result() Result {
	r := Result{ID: c.running.ID, Started: c.started()}
	r.Ready = r.Started
	for _, p := range c.probes {
		if p.kind == Readiness {
			r.Ready = r.Ready && p.passed
		}
		if p.failed() {
			r.Failed, r.Message = p.kind, p.message
		}
	}
	return r
}

// quieten ends what could kill the containers of a pod that is ending anyway.
func (p *pod) quieten() {
	for _, c := range p.containers {
		for _, probe := range c.probes {
			if probe.kind != Readiness {
				probe.hold, probe.passed = true, true
			}
		}
	}
}

func findContainer(pod *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// Run runs the probes when they are due, until ctx ends, and returns when the last has.
func (m *Manager) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		due, next := m.due()
		for _, d := range due {
			running.Go(func() { m.attempt(ctx, d) })
		}
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return nil
		case <-m.wake:
		case <-timer.C:
		}
	}
}

// nudge makes Run look again.
func (m *Manager) nudge() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// dueProbe is an attempt that is to be made now, with what it needs.
type dueProbe struct {
	attempt
	uid       types.UID
	container *container
	probe     *probe
	target    target
}

// due takes the attempts that are to be made now, and says how long there will be no other.
func (m *Manager) due() ([]dueProbe, time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	wait := time.Minute
	var due []dueProbe
	for uid, p := range m.pods {
		for _, c := range p.containers {
			started := c.started()
			for _, probe := range c.probes {
				if probe.busy || m.running[uid] >= maxRunning {
					continue // the end of an attempt wakes us
				}
				a, ok := probe.next(c.running.StartedAt, started)
				if !ok {
					continue
				}
				if in := a.at.Sub(now); in > 0 {
					wait = min(wait, in)
					continue
				}
				probe.busy = true
				m.running[uid]++
				probe.begin(a, now)
				due = append(due, dueProbe{a, uid, c, probe, target{
					spec: probe.spec, container: c.spec, id: c.running.ID, ip: p.ip, timeout: probe.timeout(),
				}})
			}
		}
	}
	return due, wait
}

// attempt runs a probe and notes its result, unless the container was replaced meanwhile.
func (m *Manager) attempt(ctx context.Context, d dueProbe) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.container.alive, cancel)()
	began := m.now()
	answer, output, err := m.run(ctx, d.target)
	if ctx.Err() != nil {
		m.mu.Lock()
		m.ended(d)
		m.mu.Unlock()
		m.nudge()
		return
	}
	output = output[:min(len(output), maxOutput)] // a server says what it likes, in its address or its status, too
	success := err == nil && answer != kubeprobe.Failure
	message, result := "", "success"
	switch {
	case err != nil:
		message, result = fmt.Sprintf("%s probe errored and resulted in unknown state: %v", d.probe.kind, err), "error"
	case !success:
		message, result = fmt.Sprintf("%s probe failed: %s", d.probe.kind, output), "failure"
	}
	if m.options.Probed != nil {
		m.options.Probed(d.probe.kind, result, m.now().Sub(began))
	}
	m.mu.Lock()
	m.ended(d)
	p := m.pods[d.uid]
	if p != nil {
		m.counts.note(p.object, d.container.running.Name, d.probe.kind, result, m.now().Sub(began))
	}
	current := p != nil && p.containers[d.container.running.Name] == d.container && !d.probe.hold
	changed := false
	if current {
		if message != "" {
			d.probe.message = message
		}
		if err == nil {
			changed = d.probe.observe(d.attempt, success)
		}
	}
	m.mu.Unlock()
	m.nudge()
	if !current {
		return
	}
	if message != "" && !d.extra && m.options.Unhealthy != nil {
		m.options.Unhealthy(d.uid, d.container.running.Name, message)
	}
	if answer == kubeprobe.Warning && m.options.Warned != nil {
		m.options.Warned(d.uid, d.container.running.Name, fmt.Sprintf("%s probe warning: %s", d.probe.kind, output))
	}
	if changed && m.options.Changed != nil {
		m.options.Changed(d.uid)
	}
}

// ended notes that an attempt is over. m.mu is held.
func (m *Manager) ended(d dueProbe) {
	d.probe.busy = false
	if m.running[d.uid]--; m.running[d.uid] == 0 {
		delete(m.running, d.uid)
	}
}

var errNoHandler = errors.New("the probe has no handler")
