package pod

import (
	"context"
	"time"

	"lockstep/nodeagent/pods"
	"lockstep/nodeagent/runtime"
)

// Relist takes in the pod's containers that were listed at that time, and those
// that should have been and were not. That one is lost is not believed of a
// list, which leaves out what does not answer, but asked for again.
func (p *Pod) Relist(ctx context.Context, found []runtime.Container, seen map[string]bool, listed time.Time) {
	for _, c := range found {
		if p.busy(c.ID, c.Name, listed) || c.State == runtime.Absent && p.knows(c.ID) {
			continue
		}
		if err := p.learn(ctx, c); err != nil {
			p.log.Warn("cannot take in container", "container", c.ID, "error", err)
		}
	}
	for _, id := range p.vanished(seen, listed) {
		if err := p.Settle(ctx, id); err != nil {
			p.log.Warn("cannot take in lost container", "container", id, "error", err)
		}
	}
}

// busy says whether what was listed at that time may be outdated.
func (p *Pod) busy(id, name string, listed time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := p.instances[id]; i != nil && i.changed.After(listed) {
		return true
	}
	for key := range p.inflight {
		if key.Touches(name) {
			return true
		}
	}
	return false
}

func (p *Pod) knows(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.instances[id] != nil
}

// vanished are the instances that should be in containerd and are not.
func (p *Pod) vanished(seen map[string]bool, listed time.Time) []string {
	p.mu.Lock()
	var ids, out []string
	for id, i := range p.instances {
		if !seen[id] && i.State != pods.Exited {
			ids = append(ids, id)
		}
	}
	names := map[string]string{}
	for _, id := range ids {
		names[id] = p.instances[id].Name
	}
	p.mu.Unlock()
	for _, id := range ids {
		if !p.busy(id, names[id], listed) {
			out = append(out, id)
		}
	}
	return out
}

// OOM says that a process of a container was killed for lack of memory.
func (p *Pod) OOM(id string) {
	p.change(func() {
		if i := p.instances[id]; i != nil {
			i.oom = true
		}
	})
}
