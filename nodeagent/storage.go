package nodeagent

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"

	"lockstep/nodeagent/beneath"
	"lockstep/nodeagent/logs"
	"lockstep/nodeagent/pods"
)

const (
	// storagePeriod is how often pods are measured, the kubelet's figure.
	storagePeriod = 10 * time.Second
	// parallelMeasures bounds the pods that are measured at a time, and
	// measureTimeout one measure: a pod may have millions of files.
	parallelMeasures = 4
	measureTimeout   = 5 * time.Minute
)

// limitStorage evicts pods that take more of the disk than they may, until ctx
// ends.
func (a *Agent) limitStorage(ctx context.Context) error {
	measures := newBeside(parallelMeasures)
	defer measures.wait()
	t := time.NewTicker(a.storageEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		for _, p := range a.allPods() {
			p.mu.Lock()
			up := p.volumes != nil && p.wanted.Evicted == "" && !p.wanted.Gone && p.wanted.Pod.DeletionTimestamp == nil
			p.mu.Unlock()
			if up {
				measures.begin(ctx, &p.measuring, func() { p.limitStorage(ctx) })
			}
		}
	}
}

// limitStorage measures the pod and evicts it if it takes too much. What could
// not be measured counts as far as it was.
func (p *pod) limitStorage(ctx context.Context) {
	bounded, cancel := context.WithTimeout(ctx, measureTimeout)
	defer cancel()
	used, err := p.storage(bounded)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		p.log.Warn("cannot measure storage", "error", err)
	}
	if why := pods.Overuse(p.object(), used); why != "" {
		p.a.metrics.evictions.Inc()
		p.event(corev1.EventTypeWarning, "Evicted", why)
		p.log.Warn("evicting pod", "reason", why)
		p.change(func() { p.wanted.Evicted = why })
	}
}

// storage measures what the pod takes of the disk: of one without limits, the
// files that nobody else bounds.
func (p *pod) storage(ctx context.Context) (pods.Storage, error) {
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
		s.Files[at] = measure(filepath.Join(p.a.volumes.FilesDir(p.uid), name))
	}
	for name, c := range newest {
		if spec := containerOf(object, name); spec != nil && spec.TerminationMessagePath != "" {
			at := spec.TerminationMessagePath + " of container " + name
			s.Files[at] = measure(p.a.records.messageFile(p.uid, name, c.Attempt))
		}
	}
	if !pods.LimitsStorage(object) {
		return s, errors.Join(errs...)
	}
	for _, v := range object.Spec.Volumes {
		if v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumDefault {
			n, err := p.a.volumes.Usage(ctx, p.uid, v.Name)
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
		own, _, err := p.a.rt.Usage(ctx, c.ID)
		if !errdefs.IsNotFound(err) { // not made yet, or removed a moment ago
			errs = append(errs, err)
		}
		s.Containers[name] = int64(own) + measure(filepath.Join(logs.Dir(p.a.opts.LogDir, object.Namespace, object.Name, object.UID), name))
	}
	return s, errors.Join(errs...)
}
