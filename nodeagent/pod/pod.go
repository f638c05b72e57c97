// Package pod brings one pod of a node to what is wanted of it.
package pod

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/kinds"
	"lockstep/kinds/drift"
	"lockstep/nodeagent/images"
	"lockstep/nodeagent/pods"
	"lockstep/nodeagent/probes"
	"lockstep/nodeagent/spec"
	"lockstep/nodeagent/volumes"
)

// Pod is one pod on this node: what is known of it, and the loop that brings
// it to what is wanted.
type Pod struct {
	node *Node
	uid  types.UID
	log  *slog.Logger
	wake chan struct{} // capacity 1: a wake-up carries no data

	mu        sync.Mutex
	wanted    pods.Wanted
	sandbox   sandbox
	tier      string                     // where its cgroup is
	volumes   map[string]volumes.Mounted // nil until set up
	stale     map[string]stale           // volumes that could not be updated
	devices   pods.Devices
	resized   bool                  // since it was made, so that what follows is to be looked at
	limits    *specs.LinuxResources // of its cgroup; nil: not known
	traces    bool
	prepared  map[string]*prepared // by container name
	begun     map[string]bool      // IDs of which there may be a layer, pipes and a shim's socket, whatever became of them
	instances map[string]*instance // by containerd ID
	pulls     map[string]string    // how far the pull is that a container waits for
	failures  map[pods.Key]pods.Failure
	inflight  map[pods.Key]context.CancelFunc
	struck    map[string]drift.Finding // containers that somebody killed and that are to be restarted, by name
	deleted   bool
	status    corev1.PodStatus // last computed
	version   int              // of status
	confirmed int              // version that the API has
	taken     int64            // revision of the object with which it took the last one
	probing   string           // which containers the prober was told of
	steps     sync.WaitGroup
	learning  sync.Mutex // taken before mu
	sharing   sync.Mutex // of a shim
	viewing   sync.Mutex // of the images that are volumes
	saving    sync.Mutex // taken before mu
	updating  turn       // of its volumes' content
	measuring turn       // of what it takes of the disk
}

// instance is one container that was made for the pod.
type instance struct {
	pods.Container
	// StopSignal is the image's; empty means SIGTERM.
	StopSignal string
	// changed is when its state was last learned here.
	changed time.Time
	oom     bool
	// killBy is when its grace period ends, zero unless it is being stopped;
	// preStopped says that its preStop hook has had its turn.
	killBy     time.Time
	preStopped bool
	// released says that its log has been closed: nothing more will be in it.
	released bool
}

// New takes up a pod that nothing was done for yet.
func (n *Node) New(object *corev1.Pod) *Pod {
	return &Pod{
		node: n, uid: object.UID, wake: make(chan struct{}, 1),
		log:    n.Log.With("pod", object.Namespace+"/"+object.Name, "uid", object.UID),
		wanted: pods.Wanted{Pod: object}, tier: spec.Tier(object),
		prepared: map[string]*prepared{}, begun: map[string]bool{}, instances: map[string]*instance{},
		pulls: map[string]string{}, failures: map[pods.Key]pods.Failure{}, inflight: map[pods.Key]context.CancelFunc{},
		struck: map[string]drift.Finding{},
	}
}

// Give gives a pod that nothing was done for yet its devices, and keeps that it has them.
func (p *Pod) Give(d pods.Devices) error {
	if err := p.node.Records.saveDevices(p.uid, d); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.devices = d
	return nil
}

// Devices are those that the pod has.
func (p *Pod) Devices() pods.Devices {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.devices
}

// Refused takes up a pod that the node does not run: it fails without starting anything.
func (n *Node) Refused(object *corev1.Pod, reason, message string) *Pod {
	p := n.New(object)
	p.wanted.Rejected, p.wanted.RejectedMessage = reason, message
	p.Event(corev1.EventTypeWarning, reason, message)
	return p
}

// Restore takes up a pod of an earlier run: from its kept object, its sandbox and what is kept of its containers.
func (n *Node) Restore(object *corev1.Pod) *Pod {
	p := n.New(object)
	p.sandbox, p.traces = p.loadSandbox()
	var err error
	if p.devices, err = n.Records.loadDevices(object.UID); err != nil {
		p.log.Warn("containers that are started have no devices", "error", err)
	}
	p.instances = n.Records.load(object.UID)
	for id, i := range p.instances {
		n.Owner.Claim(id, p)
		c := pods.ContainerOf(object, i.Name)
		if i.Resources == nil && c != nil { // an earlier release kept it
			i.Resources, i.PodResources = c.Resources.DeepCopy(), object.Spec.Resources.DeepCopy()
		}
		p.resized = p.resized || c != nil && !(equality.Semantic.DeepEqual(*i.Resources, c.Resources) &&
			equality.Semantic.DeepEqual(i.PodResources, object.Spec.Resources))
	}
	if p.sandbox.ID != "" { // limits may be new in this release, or other ones
		if err := p.limit(pods.Largest(object, p.live())); err != nil {
			p.log.Warn("cannot set the pod's limits anew", "error", err)
		}
	}
	// Setting up again is idempotent and finds what is there.
	p.traces = p.traces || len(p.instances) > 0
	return p
}

// Orphan takes up a pod that does not exist, of which there are containers, to end them properly.
func (n *Node) Orphan(object *corev1.Pod) *Pod {
	p := n.New(object)
	p.wanted.Gone, p.traces = true, true
	return p
}

// UID is the pod's.
func (p *Pod) UID() types.UID { return p.uid }

// Log is for what concerns the pod.
func (p *Pod) Log() *slog.Logger { return p.log }

// cgroup is the pod's own, the parent of its containers'.
func (p *Pod) cgroup() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.node.cgroupOf(p.tier, p.uid)
}

func (p *Pod) dir() string { return SandboxDir(p.node.RunDir, p.uid) }

// Poke asks the loop to look again.
func (p *Pod) Poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// change runs f with the pod's state locked, then wakes the loop.
func (p *Pod) change(f func()) {
	p.mu.Lock()
	f()
	p.mu.Unlock()
	p.Poke()
}

// Hear has tried again at once what failed for want of what the news is about.
func (p *Pod) Hear(news pods.News) {
	p.change(func() {
		maps.DeleteFunc(p.failures, func(k pods.Key, f pods.Failure) bool { return news.Ends(k, f) })
	})
}

// Object is the newest known object.
func (p *Pod) Object() *corev1.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wanted.Pod
}

// Wanted is what is wanted of the pod.
func (p *Pod) Wanted() pods.Wanted {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wanted
}

// Run is the pod's loop; it returns when nothing of the pod is left or ctx
// ends, after the steps it started have.
func (p *Pod) Run(ctx context.Context) {
	defer p.steps.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-timer.C:
		}
		again, done := p.round(ctx)
		if done {
			return
		}
		if !again.IsZero() {
			timer.Reset(max(time.Until(again), 0))
		}
	}
}

// round observes, decides and starts the steps.
func (p *Pod) round(ctx context.Context) (again time.Time, done bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	o := p.observe()
	if !p.wanted.Gone {
		p.report(pods.Status(p.wanted, o, now), o)
		o.Reported = p.confirmed == p.version
	}
	plan := pods.Decide(p.wanted, o, now)
	for _, key := range plan.Cancel {
		if cancel := p.inflight[key]; cancel != nil {
			cancel()
		}
	}
	for _, step := range plan.Steps {
		p.begin(ctx, step)
	}
	if plan.Done && len(p.inflight) == 0 {
		for name, f := range p.struck {
			delete(p.struck, name)
			f.Open, f.How = false, "its pod ended before it was restarted"
			p.node.Owner.Found(f)
		}
		p.node.Owner.Forget(p)
		return time.Time{}, true
	}
	return plan.Again, false
}

// begin carries a step out beside the loop. p.mu is held.
func (p *Pod) begin(ctx context.Context, step pods.Step) {
	ctx, cancel := context.WithCancel(ctx)
	key := step.Key()
	p.inflight[key] = cancel
	p.node.Metrics.steps.WithLabelValues(string(step.Kind)).Inc()
	p.log.Debug("step", "step", key, "reason", step.Reason())
	p.steps.Go(func() {
		defer cancel()
		began, interrupted := time.Now(), p.node.Containers.Interruption()
		long := time.AfterFunc(longStep+step.Grace, func() {
			p.log.Warn("step is not over yet", "step", key, "reason", step.Reason(), "after", longStep+step.Grace)
		})
		err := p.do(ctx, step)
		long.Stop()
		p.node.Metrics.stepSeconds.WithLabelValues(string(step.Kind)).Observe(time.Since(began).Seconds())
		cancelled := ctx.Err() != nil
		again := err != nil && !cancelled && interrupted(ctx)
		p.change(func() {
			delete(p.inflight, key)
			switch ended := (*endedError)(nil); {
			case err == nil || errors.As(err, &ended):
				delete(p.failures, key)
			case again: // not the pod's doing, so neither its failure nor a reason to back off
				p.failures[key] = pods.Failure{Reason: "ContainerCreating", Message: err.Error(),
					Count: p.failures[key].Count, Until: time.Now().Add(interruptedRetry), Interrupted: true}
			case !cancelled:
				f := failureOf(step, err)
				f.Count, f.At = p.failures[key].Count+1, time.Now()
				p.failures[key] = f
			}
		})
		if again {
			p.log.Debug("step interrupted", "step", key, "error", err)
			return
		}
		if err != nil && !cancelled {
			p.node.Metrics.stepErrors.WithLabelValues(string(step.Kind)).Inc()
			p.log.Warn("step failed", "step", key, "error", err)
			p.eventFailure(step, err)
		}
	})
}

// do carries one step out.
func (p *Pod) do(ctx context.Context, step pods.Step) error {
	switch step.Kind {
	case pods.Volumes:
		return p.setupVolumes(ctx)
	case pods.Setup:
		return p.setupSandbox(ctx)
	case pods.Size:
		return p.size(ctx)
	case pods.Prepare:
		return p.prepare(ctx, step)
	case pods.Start:
		return p.start(ctx, step)
	case pods.Hook:
		return p.hookAgain(ctx, step)
	case pods.Stop:
		return p.stop(ctx, step)
	case pods.Remove:
		return p.remove(ctx, step)
	case pods.Teardown:
		return p.teardown(ctx)
	case pods.Purge:
		return p.purge(ctx)
	case pods.Delete:
		return p.delete(ctx)
	}
	return errors.New("cannot do step: unknown kind")
}

// save keeps an instance as it stands; of two saves the later has the newer state. One that is about to run is kept as if it
// ran, since it may when the agent comes back.
func (p *Pod) save(i *instance) error {
	p.saving.Lock()
	defer p.saving.Unlock()
	p.mu.Lock()
	kept := *i
	p.mu.Unlock()
	if kept.State == pods.Created {
		kept.State = pods.Running
	}
	return errors.Join(p.node.Records.save(p.uid, &kept), p.node.dropForgotten(p.uid))
}

// observe collects what is known. p.mu is held.
func (p *Pod) observe() pods.Observed {
	o := pods.Observed{
		Sandbox:  pods.Sandbox{ID: p.sandbox.ID, IPs: p.addresses()},
		Volumes:  p.volumes != nil,
		Traces:   p.traces,
		Prepared: map[string]bool{},
		Failures: maps.Clone(p.failures),
		Pulls:    maps.Clone(p.pulls),
		InFlight: map[pods.Key]bool{},
		Deleted:  p.deleted,
		HostIPs:  p.node.HostIPs(),
		Health:   map[string][]corev1.ResourceStatus{},

		RecursiveReadOnly: p.node.Facts().RecursiveReadOnly && !p.sandbox.otherRuntime(),
	}
	for name, devices := range p.devices {
		o.Health[name] = p.node.Devices.Health(devices)
	}
	for key := range p.inflight {
		o.InFlight[key] = true
	}
	p.probe()
	results := p.node.Probes.Results(p.uid)
	next := map[string]int{}
	for _, i := range p.instances {
		c := i.Container
		if r := results[c.Name]; c.State == pods.Running && r.ID == c.ID {
			c.Started, c.Ready = r.Started, r.Ready
			if r.Failed != "" {
				c.Unhealthy = "failed " + strings.ToLower(string(r.Failed)) + " probe"
			}
		}
		o.Containers = append(o.Containers, c)
		n := c.Attempt
		if c.State == pods.Exited {
			n++
		}
		next[c.Name] = max(next[c.Name], n)
	}
	o.Unsized = p.unsized(o.Containers)
	for name, pr := range p.prepared {
		o.Prepared[name] = pr.attempt == next[name]
	}
	return o
}

// probe tells the prober which containers run, if that changed. p.mu is held.
func (p *Pod) probe() {
	var running []probes.Running
	var key strings.Builder
	for _, i := range p.instances {
		if i.State != pods.Running {
			continue
		}
		r := probes.Running{Name: i.Name, ID: i.ID, StartedAt: i.StartedAt}
		for _, s := range slices.Concat(p.wanted.Pod.Status.InitContainerStatuses, p.wanted.Pod.Status.ContainerStatuses) {
			if s.ContainerID == "containerd://"+i.ID {
				r.Started, r.Ready = s.Started != nil && *s.Started, s.Ready
			}
		}
		running = append(running, r)
	}
	slices.SortFunc(running, func(a, b probes.Running) int { return strings.Compare(a.ID, b.ID) })
	for _, r := range running {
		key.WriteString(r.ID)
	}
	if key.String() == p.probing {
		return
	}
	p.probing = key.String()
	ip := ""
	if ips := p.addresses(); len(ips) > 0 {
		ip = ips[0]
	}
	p.node.Probes.Set(p.wanted.Pod, running, ip)
}

// addresses are the pod's. p.mu is held.
func (p *Pod) addresses() []string {
	if p.wanted.Pod.Spec.HostNetwork {
		return p.node.HostIPs()
	}
	return p.sandbox.IPs
}

// report hands a status to the writer that has changed, or that somebody else has overruled. p.mu is held.
func (p *Pod) report(s corev1.PodStatus, o pods.Observed) {
	overruled := p.overruled(s)
	if !overruled && equality.Semantic.DeepEqual(s, p.status) {
		return
	}
	p.eventBackoff(p.status, s)
	p.eventResized(p.status, s)
	if overdue := "DeadlineExceeded"; s.Reason == overdue && p.status.Reason != overdue && p.wanted.Pod.Status.Reason != overdue {
		p.node.Events.Event(p.wanted.Pod, corev1.EventTypeNormal, overdue, s.Message)
	}
	p.status = s
	p.version++
	if equality.Semantic.DeepEqual(s, p.wanted.Pod.Status) {
		p.confirmed, p.taken = p.version, max(p.taken, kinds.Revision(p.wanted.Pod))
		return
	}
	// Who overrules it, because the node counts as silent, may do so again: the two shall not answer each other at once.
	p.node.Owner.Report(p, !overruled && pods.Urgent(p.wanted.Pod.Status, s))
}

// overruled says that the API has another status than the one that it took last, by whoever wrote after that. p.mu is held.
func (p *Pod) overruled(s corev1.PodStatus) bool {
	return p.version > 0 && p.confirmed == p.version && kinds.Revision(p.wanted.Pod) > p.taken &&
		!equality.Semantic.DeepEqual(s, p.wanted.Pod.Status)
}

// longStep is from when on a step that is still going on is told, once: one that fails tells itself, one that hangs would
// not. Most take milliseconds; a hook, or a pull over a slow line, may take that long.
const longStep = 30 * time.Second

// interruptedRetry is the pause after a step that failed because containerd
// went away: it is back within a second of a restart.
const interruptedRetry = 500 * time.Millisecond

// neverRetry is how long to wait where only a new image on the node helps.
const neverRetry = time.Minute

// stepError is a failure with the reason that Kubernetes gives for it.
type stepError struct {
	reason string
	err    error
}

// Failed is an error of the machine with the reason that Kubernetes gives for it.
func Failed(reason string, err error) error { return &stepError{reason, err} }

func (e *stepError) Error() string { return e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }

func failureOf(step pods.Step, err error) pods.Failure {
	f := pods.Failure{Message: err.Error()}
	var s *stepError
	var i *images.Error
	switch {
	case errors.As(err, &i):
		f.Reason, f.Message, f.Until = i.Reason, i.Message, i.RetryAt
		switch {
		case i.Reason == images.ReasonErrImagePull:
			// Asked again at once, the manager says that it waits, and until when.
			f.Until = time.Now().Add(time.Second)
		case f.Until.IsZero():
			f.Until = time.Now().Add(neverRetry)
		}
	case errors.As(err, &s):
		f.Reason = s.reason
	case step.Kind == pods.Volumes:
		f.Reason = "FailedMount"
		if failed := volumes.Errors(err); len(failed) > 0 { // of several, each has its event
			f.Reason, f.Message = failed[0].Reason(), failed[0].Error()
		}
	case step.Kind == pods.Setup:
		f.Reason = noSandbox
	case step.Kind == pods.Prepare:
		f.Reason = "CreateContainerError"
	case step.Kind == pods.Start:
		f.Reason = "RunContainerError"
	default:
		f.Reason = "ContainerCreating"
	}
	return f
}

// noSandbox is Kubernetes' reason for a sandbox that cannot be made.
const noSandbox = "FailedCreatePodSandBox"

// eventFailure reports a failed step as the kubelet would.
func (p *Pod) eventFailure(step pods.Step, err error) {
	switch step.Kind {
	case pods.Volumes:
		for _, one := range volumes.Errors(err) {
			p.Event(corev1.EventTypeWarning, one.Reason(), one.Error())
		}
	case pods.Setup:
		p.Event(corev1.EventTypeWarning, noSandbox, "Failed to create pod sandbox: "+err.Error())
	case pods.Prepare, pods.Start:
		text := err.Error()
		if i := (*images.Error)(nil); errors.As(err, &i) {
			text = i.Reason // the image manager has told more
		}
		p.ContainerEvent(step.Container, corev1.EventTypeWarning, "Failed", "Error: "+text)
	case pods.Size:
		p.Event(corev1.EventTypeWarning, "ResizeError", pods.ResizeNews("Pod resize error", p.Object(), err.Error()))
	case pods.Teardown, pods.Stop:
		p.Event(corev1.EventTypeWarning, "FailedKillPod", "error killing pod: "+err.Error())
	}
}

// Event tells what happened to the pod.
func (p *Pod) Event(kind, reason, message string) {
	p.node.Events.Event(p.Object(), kind, reason, message)
}

// ContainerEvent tells what happened to a container, which the event names by
// its place in the pod's spec.
func (p *Pod) ContainerEvent(name, kind, reason, message string) {
	p.node.Events.Event(containerReference(p.Object(), name), kind, reason, message)
}

func containerReference(o *corev1.Pod, name string) *corev1.ObjectReference {
	place := "containers"
	if slices.ContainsFunc(o.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == name }) {
		place = "initContainers"
	}
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: o.Namespace, Name: o.Name, UID: o.UID,
		ResourceVersion: o.ResourceVersion, FieldPath: "spec." + place + "{" + name + "}"}
}

// eventBackoff tells of each container that has begun to wait for its restart.
// p.mu is held.
func (p *Pod) eventBackoff(old, s corev1.PodStatus) {
	waits := func(s corev1.PodStatus) map[string]bool {
		out := map[string]bool{}
		for _, c := range slices.Concat(s.InitContainerStatuses, s.ContainerStatuses) {
			out[c.Name] = c.State.Waiting != nil && c.State.Waiting.Reason == "CrashLoopBackOff"
		}
		return out
	}
	o, before := p.wanted.Pod, waits(old)
	for name, now := range waits(s) {
		if now && !before[name] {
			p.node.Events.Event(containerReference(o, name), corev1.EventTypeWarning, "BackOff", fmt.Sprintf(
				"Back-off restarting failed container %s in pod %s_%s(%s)", name, o.Name, o.Namespace, o.UID))
		}
	}
}
