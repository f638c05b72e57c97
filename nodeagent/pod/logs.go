package pod

import (
	"context"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"lockstep/nodeagent/logs"
	"lockstep/nodeagent/pods"
)

// Logged is the instance whose log is asked for.
func (p *Pod) Logged(name string, previous bool) (pods.Container, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var last, before *instance
	for _, i := range p.instances {
		switch {
		case i.Name != name:
		case last == nil || i.Attempt > last.Attempt:
			last, before = i, last
		case before == nil || i.Attempt > before.Attempt:
			before = i
		}
	}
	// While it waits for its restart, both words mean the instance that ended last.
	waits := slices.ContainsFunc(slices.Concat(p.status.InitContainerStatuses, p.status.ContainerStatuses),
		func(s corev1.ContainerStatus) bool { return s.Name == name && s.State.Waiting != nil })
	if previous && !waits {
		last = before
	}
	if last == nil || last.State == pods.Created {
		return pods.Container{}, false
	}
	return last.Container, true
}

// Ended says that nothing more will be written to the container's log.
func (p *Pod) Ended(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := p.instances[id]
	return i == nil || i.State == pods.Exited && i.released
}

// lastLines is the end of an instance's log, for its termination message.
func (p *Pod) lastLines(ctx context.Context, i *instance) string {
	var b strings.Builder
	lines := int64(fallbackLines)
	if err := logs.Read(ctx, logs.Path(p.LogDir(), i.Name, i.Attempt), &corev1.PodLogOptions{TailLines: &lines}, &b, nil); err != nil {
		return ""
	}
	text := b.String()
	if len(text) > fallbackBytes {
		text = text[len(text)-fallbackBytes:]
	}
	return text
}

// removeLog removes the files of an old instance's log, rotated ones included.
func (p *Pod) removeLog(name string, attempt int) {
	if err := logs.Remove(logs.Path(p.LogDir(), name, attempt)); err != nil {
		p.log.Warn("cannot remove log", "error", err)
	}
}
