package pod

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/signal"
	corev1 "k8s.io/api/core/v1"

	"lockstep/nodeagent/beneath"
	"lockstep/nodeagent/pods"
	"lockstep/nodeagent/runtime"
)

const (
	// leastGrace is what a container gets at least to end by itself, also when
	// its preStop hook used up the grace period; Kubernetes' figure.
	leastGrace = 2 * time.Second
	// hookCheck is how soon a hook ends after its container did.
	hookCheck = 100 * time.Millisecond
	// maxMessage bounds termination messages, fallbackLines and fallbackBytes
	// those taken from the log; Kubernetes' figures.
	maxMessage    = 4096
	fallbackLines = 80
	fallbackBytes = 2048
)

// stop ends a container: preStop, the stop signal, SIGKILL after the grace
// period. One that failed goes on with what is left of that.
func (p *Pod) stop(ctx context.Context, step pods.Step) error {
	p.mu.Lock()
	inst := p.instances[step.ID]
	if inst == nil || inst.State == pods.Exited {
		p.mu.Unlock()
		return nil
	}
	again := !inst.killBy.IsZero()
	if by := time.Now().Add(step.Grace); !again || by.Before(inst.killBy) {
		inst.killBy = by
	}
	c, sig, deadline, hooked := pods.ContainerOf(p.wanted.Pod, inst.Name), inst.StopSignal, inst.killBy, inst.preStopped
	p.mu.Unlock()
	if !again {
		p.ContainerEvent(step.Container, corev1.EventTypeNormal, "Killing", pods.Killing(step, p.Object()))
	}
	if step.Hooks && !hooked && c != nil && c.Lifecycle != nil && c.Lifecycle.PreStop != nil {
		p.preStop(ctx, c, inst, deadline)
	}
	number := syscall.SIGTERM
	if sig != "" {
		if n, err := signal.ParseSignal(sig); err == nil {
			number = n
		}
	}
	if err := p.node.Containers.Stop(ctx, step.ID, number, max(time.Until(deadline), leastGrace)); err != nil {
		return err
	}
	return p.Settle(ctx, step.ID)
}

// preStop runs the hook until the grace period or the container ends.
func (p *Pod) preStop(ctx context.Context, c *corev1.Container, inst *instance, deadline time.Time) {
	hook, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	p.steps.Go(func() { p.cancelAfter(hook, inst.ID, cancel) })
	if err := p.hook(hook, c, inst.ID, c.Lifecycle.PreStop); err != nil {
		p.ContainerEvent(c.Name, corev1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
		p.log.Warn("hook failed", "hook", "preStop", "container", c.Name, "error", err)
	}
	if ctx.Err() == nil {
		p.mu.Lock()
		inst.preStopped = true
		p.mu.Unlock()
	}
}

// cancelAfter ends a hook whose container has ended before it.
func (p *Pod) cancelAfter(ctx context.Context, id string, cancel context.CancelFunc) {
	t := time.NewTicker(hookCheck)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		p.mu.Lock()
		i := p.instances[id]
		over := i == nil || i.State == pods.Exited
		p.mu.Unlock()
		if over {
			cancel()
			return
		}
	}
}

// Settle learns how a container ended, records it and frees what containerd
// and the log keeper hold for it. For one that runs it does nothing.
func (p *Pod) Settle(ctx context.Context, id string) error {
	c, err := p.node.Containers.Get(ctx, id)
	if errdefs.IsNotFound(err) {
		c, err = runtime.Container{ID: id, State: runtime.Absent}, nil
	}
	if err != nil {
		return err
	}
	return p.learn(ctx, c)
}

// learn takes in what containerd has of a container of this pod. An exit is
// noticed by its event, by who stopped it and by the relist: the first of them
// records it, the others find it recorded.
func (p *Pod) learn(ctx context.Context, c runtime.Container) error {
	p.learning.Lock()
	defer p.learning.Unlock()
	if c.State == runtime.Unknown {
		return nil // a busy machine: the next look tells
	}
	if c.Name == pauseName {
		p.learnPause(c)
		return nil
	}
	p.mu.Lock()
	inst := p.instances[c.ID]
	if inst == nil && c.State != runtime.Absent {
		inst = &instance{Container: pods.Container{
			ID: c.ID, Name: c.Name, Attempt: c.Attempt, Sandbox: c.Sandbox, Hash: c.Hash, Crashes: c.Crashes,
			Image: c.Image, ImageID: c.ImageID, StartedAt: c.CreatedAt, Hooked: true,
		}}
		for _, other := range p.instances {
			inst.Round = max(inst.Round, other.Round) // else it would count as one that is to be replaced
		}
		p.instances[c.ID] = inst
	}
	if inst == nil {
		p.mu.Unlock()
		if c.Name == "" {
			return nil
		}
		// It was recorded in containerd and never started.
		return p.node.Containers.Remove(ctx, c.ID, true)
	}
	known, released := inst.State == pods.Exited, inst.released
	making := pods.BeingMade(inst.Container, p.inflight)
	p.mu.Unlock()
	if making && c.State == runtime.Absent {
		return nil // it is not there yet; the step that makes it knows how that ends
	}
	if known {
		if c.State == runtime.Stopped && !released {
			return p.release(ctx, c.ID)
		}
		return nil
	}
	switch c.State {
	case runtime.Created:
		p.change(func() {
			if inst.changed.IsZero() { // kept by an agent that ended before it ran
				inst.State, inst.StartedAt, inst.changed = pods.Created, time.Time{}, time.Now()
			}
		})
		return nil
	case runtime.Running:
		p.change(func() {
			if inst.State == pods.Created {
				inst.State, inst.changed = pods.Running, time.Now()
				p.restarted(inst)
			}
		})
		return nil
	}
	return p.exited(ctx, inst, c)
}

// learnPause notices that the process which holds the pod's PID namespace has
// ended, and the sandbox with it.
func (p *Pod) learnPause(c runtime.Container) {
	if c.State == runtime.Running || c.State == runtime.Created {
		return
	}
	p.change(func() {
		if p.inflight[pods.Key{Kind: pods.Setup}] == nil {
			p.sandbox = sandbox{}
		}
	})
}

// exited records an exit. Absent means that the container vanished, or that
// the machine was started anew.
func (p *Pod) exited(ctx context.Context, inst *instance, c runtime.Container) error {
	if c.State == runtime.Absent {
		if err := p.node.Containers.EndRemains(ctx, filepath.Join(p.cgroup(), c.ID), c.ID); err != nil {
			p.log.Warn("cannot end container that containerd has forgotten", "container", c.ID, "error", err)
		}
	}
	spec := pods.ContainerOf(p.Object(), inst.Name)
	message := p.terminationMessage(spec, inst)
	released := false
	if message == "" && c.ExitCode != 0 && spec != nil && spec.TerminationMessagePolicy == corev1.TerminationMessageFallbackToLogsOnError {
		// The log is complete only when the pipes are closed.
		if err := p.release(ctx, c.ID); err != nil {
			return err
		}
		released = true
		message = p.lastLines(ctx, inst)
	}
	oom := p.node.Sandboxes.OOMKilled(filepath.Join(p.cgroup(), c.ID))
	p.change(func() {
		if inst.State == pods.Exited {
			return
		}
		inst.State, inst.changed, inst.Message = pods.Exited, time.Now(), message
		inst.ExitCode, inst.FinishedAt = int32(c.ExitCode), c.ExitedAt
		switch {
		case c.State == runtime.Absent:
			inst.ExitCode, inst.Reason = 255, "Unknown"
		case inst.ExitCode != 0 && (inst.oom || oom):
			inst.Reason = "OOMKilled"
		}
		if inst.FinishedAt.IsZero() || inst.FinishedAt.Unix() <= 0 {
			inst.FinishedAt = time.Now()
		}
		if inst.StartedAt.IsZero() {
			inst.StartedAt = inst.FinishedAt
		}
		if c.State == runtime.Stopped {
			p.strike(spec, inst, oom)
		}
	})
	if err := p.save(inst); err != nil {
		return err
	}
	if released {
		return nil
	}
	return p.release(ctx, c.ID)
}

// release frees the ended process and its log's pipes; the container's layer
// and log stay.
func (p *Pod) release(ctx context.Context, id string) error {
	err := errors.Join(p.node.Containers.Reap(ctx, id), p.node.Logs.Close(ctx, id))
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := p.instances[id]; i != nil {
		i.released = true
	}
	return err
}

// terminationMessage is what the container left at its terminationMessagePath.
func (p *Pod) terminationMessage(c *corev1.Container, inst *instance) string {
	if c == nil {
		return ""
	}
	text, err := p.node.Records.takeMessage(p.uid, inst.Name, inst.Attempt, maxMessage)
	if err != nil {
		p.log.Warn("cannot read termination message", "container", inst.Name, "error", err)
	}
	return text
}

// remove forgets an old instance: its container, its log and its record.
func (p *Pod) remove(ctx context.Context, step pods.Step) error {
	if err := p.node.Containers.Remove(ctx, step.ID, true); err != nil {
		return err
	}
	if err := p.node.Logs.Close(ctx, step.ID); err != nil {
		return err
	}
	if err := p.node.Containers.DropRemains(ctx, []string{step.ID}); err != nil {
		return err
	}
	p.removeLog(step.Container, step.Attempt)
	if err := os.Remove(filepath.Join(p.dir(), "stdin", step.ID)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove input of container %s: %w", step.Container, err)
	}
	p.change(func() {
		delete(p.instances, step.ID)
		delete(p.begun, step.ID)
	})
	p.node.Owner.Unclaim(step.ID)
	return p.node.Records.drop(p.uid, step.Container, step.Attempt)
}

// teardown removes sandbox, volumes and cgroup; containers stay for their logs.
func (p *Pod) teardown(ctx context.Context) error {
	p.mu.Lock()
	unused := slices.DeleteFunc(slices.Collect(maps.Keys(p.begun)), func(id string) bool { return p.instances[id] != nil })
	p.mu.Unlock()
	// Each by itself: what cannot be removed keeps nothing else from going, and is tried again.
	var errs []error
	for _, id := range unused {
		err := errors.Join(p.node.Containers.Remove(ctx, id, true), p.node.Logs.Close(ctx, id),
			p.node.Containers.DropRemains(ctx, []string{id}))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		p.change(func() {
			delete(p.begun, id)
			maps.DeleteFunc(p.prepared, func(_ string, pr *prepared) bool { return pr.id == id })
		})
	}
	errs = append(errs, p.teardownSandbox(ctx), p.node.Containers.DropRemains(ctx, []string{string(p.uid)}))
	errs = append(errs, p.node.Sandboxes.Unlimit(p.cgroup()))
	if earlier := p.node.cgroupOf("", p.uid); earlier != p.cgroup() { // an earlier release's, of an earlier sandbox
		errs = append(errs, p.node.Sandboxes.Unlimit(earlier))
	}
	err := p.node.Volumes.Teardown(ctx, p.uid)
	if err == nil {
		err = p.dropViews(ctx)
	}
	errs = append(errs, err)
	if err := errors.Join(errs...); err != nil {
		return err
	}
	p.change(func() { p.sandbox, p.volumes, p.traces = sandbox{}, nil, false })
	return nil
}

// purge removes all containers, records and logs of the pod, each by itself.
func (p *Pod) purge(ctx context.Context) error {
	p.mu.Lock()
	ids := []string{}
	for id := range p.instances {
		ids = append(ids, id)
	}
	p.mu.Unlock()
	shims := p.ShimNames()
	var errs []error
	for _, id := range ids {
		if err := errors.Join(p.node.Containers.Remove(ctx, id, true), p.node.Logs.Close(ctx, id)); err != nil {
			errs = append(errs, err)
			continue
		}
		p.node.Owner.Unclaim(id)
		p.change(func() { delete(p.instances, id) })
	}
	errs = append(errs, p.node.Containers.DropRemains(ctx, shims))
	if err := beneath.RemoveAll(ctx, p.LogDir()); err != nil {
		errs = append(errs, fmt.Errorf("cannot remove logs of pod: %w", err))
	}
	return errors.Join(errs...)
}

// delete removes the pod from the API, if it is still this pod.
func (p *Pod) delete(ctx context.Context) error {
	if err := p.node.Cluster.Delete(ctx, p.Object()); err != nil {
		return err
	}
	p.change(func() { p.deleted = true })
	return nil
}
