package nodeagent

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"

	"lockstep/nodeagent/logs"
	"lockstep/nodeagent/pods"
)

// storagePeriod is how often pods with limits are measured, the kubelet's
// figure.
const storagePeriod = 10 * time.Second

// limitStorage evicts pods that take more of the disk than they may, until ctx
// ends.
func (a *Agent) limitStorage(ctx context.Context) error {
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
			object, up := p.wanted.Pod, p.volumes != nil && p.wanted.Evicted == "" && !p.wanted.Gone
			p.mu.Unlock()
			if !up || object.DeletionTimestamp != nil || !pods.LimitsStorage(object) {
				continue
			}
			used, err := p.storage(ctx)
			if err != nil {
				if ctx.Err() == nil {
					p.log.Warn("cannot measure storage", "error", err)
				}
				continue
			}
			if why := pods.Overuse(object, used); why != "" {
				a.metrics.evictions.Inc()
				p.event(corev1.EventTypeWarning, "Evicted", why)
				p.log.Warn("evicting pod", "reason", why)
				p.change(func() { p.wanted.Evicted = why })
			}
		}
	}
}

// storage measures what the pod takes of the disk.
func (p *pod) storage(ctx context.Context) (pods.Storage, error) {
	p.mu.Lock()
	object := p.wanted.Pod
	running := map[string]string{}
	for _, i := range p.instances {
		if i.State == pods.Running {
			running[i.ID] = i.Name
		}
	}
	p.mu.Unlock()
	s := pods.Storage{Volumes: map[string]int64{}, Containers: map[string]int64{}}
	for _, v := range object.Spec.Volumes {
		if v.EmptyDir == nil || v.EmptyDir.Medium != corev1.StorageMediumDefault {
			continue
		}
		n, err := p.a.volumes.Usage(p.uid, v.Name)
		if err != nil {
			return s, err
		}
		s.Volumes[v.Name] = int64(n)
	}
	for id, name := range running {
		own, _, err := p.a.rt.Usage(ctx, id)
		if err != nil {
			return s, err
		}
		written, err := diskUse(filepath.Join(logs.Dir(p.a.opts.LogDir, object.Namespace, object.Name, object.UID), name))
		if err != nil {
			return s, err
		}
		s.Containers[name] = int64(own) + written
	}
	return s, nil
}

// diskUse is what the files of a directory take of the disk; nothing if it is absent.
func diskUse(dir string) (int64, error) {
	var total int64
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if info, err := e.Info(); err == nil { // else it has gone meanwhile
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				total += st.Blocks * 512
			}
		}
		return nil
	})
	return total, err
}
