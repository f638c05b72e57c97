package pod

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"lockstep/nodeagent/volumes"
)

const (
	// updateTimeout bounds the update of one pod's volumes: three objects that
	// the API does not answer for.
	updateTimeout = 30 * time.Second
	// retellAfter is when a volume that still cannot be updated is told of
	// again; the kubelet's longest pause between two attempts.
	retellAfter = 122 * time.Second
)

// stale is why a volume cannot be updated, and when that was told.
type stale struct {
	why  string
	told time.Time
}

// UpdateVolumes brings the content of the pod's volumes up to date soon, if they have content that changes, and tells of
// those that it cannot.
func (p *Pod) UpdateVolumes(ctx context.Context, beside *Beside) {
	p.mu.Lock()
	up := p.volumes != nil && !p.wanted.Gone && changes(p.wanted.Pod)
	p.mu.Unlock()
	if up {
		beside.begin(ctx, &p.updating, func() { p.updateVolumes(ctx) })
	}
}

func (p *Pod) updateVolumes(ctx context.Context) {
	bounded, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	changed, err := p.node.Volumes.Update(bounded, p.Object(), p.node.volumeSources(bounded, p.node.Cluster.Latest()))
	if ctx.Err() != nil {
		return
	}
	p.node.Metrics.refreshes.Add(float64(changed))
	failed := volumes.Errors(err)
	p.node.Metrics.refreshErrors.Add(float64(len(failed)))
	for _, one := range p.untold(failed, time.Now()) {
		p.log.Warn("cannot update volume", "volume", one.Volume, "error", one.Cause)
		p.Event(corev1.EventTypeWarning, one.Reason(), one.Error())
	}
}

// untold remembers which volumes are stale, and returns those of which nothing,
// something else, or nothing for a while was told.
func (p *Pod) untold(failed []*volumes.Error, now time.Time) []*volumes.Error {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.stale
	p.stale = map[string]stale{}
	var out []*volumes.Error
	for _, one := range failed {
		s := stale{one.Error(), now}
		if last, ok := before[one.Volume]; ok && last.why == s.why && now.Sub(last.told) < retellAfter {
			s = last
		} else {
			out = append(out, one)
		}
		p.stale[one.Volume] = s
	}
	return out
}

// setupVolumes makes the pod's volumes.
func (p *Pod) setupVolumes(ctx context.Context) error {
	object := p.Object()
	p.change(func() { p.traces = true })
	mounted, err := p.node.Volumes.Setup(ctx, object, p.node.volumeSources(ctx, p.node.Cluster))
	if err != nil {
		return err
	}
	if mounted == nil {
		mounted = map[string]volumes.Mounted{}
	}
	p.change(func() { p.volumes = mounted })
	if changes(object) {
		p.node.Owner.Refresh(p.uid) // what changed since it was read has not been told to these volumes
	}
	return nil
}

// changes says whether a pod has volumes whose content may change.
func changes(o *corev1.Pod) bool {
	return slices.ContainsFunc(o.Spec.Volumes, func(v corev1.Volume) bool {
		return v.ConfigMap != nil || v.Secret != nil || v.Projected != nil || v.DownwardAPI != nil
	})
}
