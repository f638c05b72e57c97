package pod

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds/podstatus"
	"lockstep/nodeagent/beneath"
	"lockstep/nodeagent/eviction"
	"lockstep/nodeagent/logs"
	"lockstep/nodeagent/pods"
)

// measureTimeout bounds one measure: a pod may have millions of files.
const measureTimeout = 5 * time.Minute

// LimitStorage measures soon what the pod takes of the disk, and evicts it if that is too much. What could not be measured
// counts as far as it was.
func (p *Pod) LimitStorage(ctx context.Context, beside *Beside) {
	p.mu.Lock()
	up := p.volumes != nil && p.wanted.Evicted.Message == "" && !p.wanted.Gone && p.wanted.Pod.DeletionTimestamp == nil
	p.mu.Unlock()
	if up {
		beside.begin(ctx, &p.measuring, func() { p.limitStorage(ctx) })
	}
}

func (p *Pod) limitStorage(ctx context.Context) {
	bounded, cancel := context.WithTimeout(ctx, measureTimeout)
	defer cancel()
	used, err := p.storage(bounded)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		p.log.Warn("cannot measure storage", "error", err)
	}
	if why := pods.Overuse(p.Object(), used); why != "" {
		p.Evict(pods.Eviction{Message: why, Grace: eviction.HardGrace})
	}
}

// Evict ends the pod early; it fails for good.
func (p *Pod) Evict(e pods.Eviction) {
	p.node.Metrics.evictions.Inc()
	p.Event(corev1.EventTypeWarning, "Evicted", e.Message)
	p.log.Warn("evicting pod", "reason", e.Message)
	p.change(func() { p.wanted.Evicted = e })
}

// Shut ends the pod because the machine shuts down; it fails for good.
func (p *Pod) Shut(e pods.Eviction) {
	p.log.Info("ending pod", "reason", e.Message, "grace", e.Grace)
	p.change(func() { p.wanted.Evicted = e })
}

// Settled says that the pod has ended, nothing of it is left but records, and the API knows how it ended, unless it asks for it no
// more.
func (p *Pod) Settled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.traces && (p.wanted.Gone || podstatus.Finished(&p.status) && p.confirmed == p.version)
}

// Spare has the pod keep as little as it can on the disk, or not any more.
func (p *Pod) Spare(spare bool) {
	p.mu.Lock()
	was := p.wanted.Spare
	p.wanted.Spare = spare
	p.mu.Unlock()
	if spare != was {
		p.Poke()
	}
}

// Active says that the pod runs here and nobody ends it.
func (p *Pod) Active() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.wanted
	return p.traces && w.Evicted.Message == "" && !w.Refused() && w.Pod.DeletionTimestamp == nil && !podstatus.Finished(&p.status)
}

// Down says that nothing of the pod is left but records.
func (p *Pod) Down() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.traces
}

// storage measures what the pod takes of the disk: of one without limits, the
// files that nobody else bounds.
func (p *Pod) storage(ctx context.Context) (pods.Storage, error) {
	p.mu.Lock()
	object := p.wanted.Pod
	newest := map[string]pods.Container{}
	for _, i := range p.instances {
		if last, ok := newest[i.Name]; !ok || i.Attempt > last.Attempt {
			newest[i.Name] = i.Container
		}
	}
	p.mu.Unlock()
	s := pods.Storage{Volumes: map[string]int64{}, Containers: map[string]int64{}, Files: map[string]int64{}}
	var errs []error
	measure := func(path string) int64 {
		size, err := beneath.Usage(ctx, path)
		errs = append(errs, err)
		return int64(size.Bytes)
	}
	for name, at := range podFiles() {
		s.Files[at] = measure(filepath.Join(p.node.Volumes.FilesDir(p.uid), name))
	}
	for name, c := range newest {
		if spec := pods.ContainerOf(object, name); spec != nil && spec.TerminationMessagePath != "" {
			at := spec.TerminationMessagePath + " of container " + name
			s.Files[at] = measure(p.node.Records.messageFile(p.uid, name, c.Attempt))
		}
	}
	if !pods.LimitsStorage(object) {
		return s, errors.Join(errs...)
	}
	for _, v := range object.Spec.Volumes {
		if v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumDefault {
			n, err := p.node.Volumes.Usage(ctx, p.uid, v.Name)
			errs = append(errs, err)
			s.Volumes[v.Name] = int64(n)
		}
	}
	for name, c := range newest {
		// A container that waits for its restart has what it wrote; init containers that are done do not count, as
		// limits of a pod are no sum over them.
		init := slices.ContainsFunc(object.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == name })
		if c.State != pods.Running && init {
			continue
		}
		own, _, err := p.node.Containers.Usage(ctx, c.ID)
		if !errdefs.IsNotFound(err) { // not made yet, or removed a moment ago
			errs = append(errs, err)
		}
		s.Containers[name] = int64(own) + measure(filepath.Join(logs.Dir(p.node.LogDir, object.Namespace, object.Name, object.UID), name))
	}
	return s, errors.Join(errs...)
}
