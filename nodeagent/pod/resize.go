package pod

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"lockstep/kinds/podstatus"
	"lockstep/nodeagent/pods"
	"lockstep/nodeagent/spec"
)

// Resized takes over the change of resources that waits, if it is still that one, and keeps it before any container has it.
func (p *Pod) Resized(r *pods.Resize) error {
	taken := false
	var ended []*instance
	p.change(func() {
		if p.wanted.Resize == nil || p.wanted.Resize.Pod != r.Pod {
			return
		}
		p.wanted.Pod, p.wanted.Resize, p.resized, taken = r.Pod, nil, true, true
		for _, i := range p.instances { // what has ended has nothing to change
			if c := pods.ContainerOf(r.Pod, i.Name); i.State == pods.Exited && c != nil {
				i.Resources, i.PodResources = c.Resources.DeepCopy(), r.Pod.Spec.Resources.DeepCopy()
				ended = append(ended, i)
			}
		}
	})
	if !taken {
		return nil
	}
	p.Event(corev1.EventTypeNormal, "ResizeStarted", pods.ResizeNews("Pod resize started", r.Pod, ""))
	err := p.Keep()
	for _, i := range ended {
		err = errors.Join(err, p.save(i))
	}
	return err
}

// Unresized says why a change of resources waits.
func (p *Pod) Unresized(r *pods.Resize, reason, message string) {
	p.change(func() {
		if p.wanted.Resize == nil || p.wanted.Resize.Pod != r.Pod {
			return
		}
		if p.wanted.Resize.Reason != reason {
			p.node.Events.Event(r.Pod, corev1.EventTypeWarning, "Resize"+reason, pods.ResizeNews("Pod resize "+reason, r.Pod, message))
		}
		p.wanted.Resize = &pods.Resize{Pod: r.Pod, Reason: reason, Message: message}
	})
}

// limit gives the pod's cgroup the limits of a state of the pod.
func (p *Pod) limit(o *corev1.Pod) error {
	limits := spec.PodLimits(o, p.node.Facts())
	if err := p.node.Sandboxes.Limit(p.cgroup(), limits); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limits = limits
	return nil
}

// unsized says whether there is something for size to do. p.mu is held.
func (p *Pod) unsized(live []pods.Container) bool {
	if !p.resized || p.sandbox.ID == "" {
		return false
	}
	o := p.wanted.Pod
	return len(pods.Outgrown(o, live)) > 0 ||
		!equality.Semantic.DeepEqual(p.limits, spec.PodLimits(pods.Largest(o, live), p.node.Facts()))
}

// size gives the pod's cgroup and its running containers the resources that they are to have. The cgroup holds the larger ones
// meanwhile.
func (p *Pod) size(ctx context.Context) error {
	for range 2 {
		o, live := p.Object(), p.live()
		if err := p.limit(pods.Largest(o, live)); err != nil {
			return err
		}
		for _, i := range pods.Outgrown(o, live) {
			c := pods.ContainerOf(o, i.Name)
			if err := p.node.Containers.Resize(ctx, i.ID, spec.ContainerLimits(o, c, p.node.Facts())); err != nil {
				return fmt.Errorf("cannot resize container %s: %w", i.Name, err)
			}
			p.mu.Lock()
			inst := p.instances[i.ID]
			if inst != nil {
				inst.Resources, inst.PodResources = c.Resources.DeepCopy(), o.Spec.Resources.DeepCopy()
			}
			p.mu.Unlock()
			if inst == nil {
				continue
			}
			if err := p.save(inst); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *Pod) live() (live []pods.Container) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, i := range p.instances {
		if i.State != pods.Exited {
			live = append(live, i.Container)
		}
	}
	return live
}

// eventResized tells that a change of resources is carried out. p.mu is held.
func (p *Pod) eventResized(old, s corev1.PodStatus) {
	if podstatus.True(&old, corev1.PodResizeInProgress) && !podstatus.True(&s, corev1.PodResizeInProgress) && !podstatus.Finished(&s) {
		p.node.Events.Event(p.wanted.Pod, corev1.EventTypeNormal, "ResizeCompleted",
			pods.ResizeNews("Pod resize completed", p.wanted.Pod, ""))
	}
}
