package pod

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"lockstep/nodeagent/pods"
)

// strike tells that somebody has killed a container, if somebody has. p.mu is held.
func (p *Pod) strike(c *corev1.Container, inst *instance, oom bool) {
	if p.wanted.Gone {
		return
	}
	exit := pods.Exit{Code: inst.ExitCode, OOM: inst.oom || oom, Ours: !inst.killBy.IsZero(), At: inst.FinishedAt}
	f, ok := pods.Struck(p.wanted.Pod, c, inst.Container, exit, time.Now())
	if !ok {
		return
	}
	if f.Open {
		p.struck[inst.Name] = f
	}
	p.node.Owner.Found(f)
}

// restarted tells that a container which was killed runs again. p.mu is held.
func (p *Pod) restarted(inst *instance) {
	f, ok := p.struck[inst.Name]
	if !ok {
		return
	}
	delete(p.struck, inst.Name)
	p.node.Owner.Found(pods.Restarted(f, inst.Attempt, time.Now()))
}
