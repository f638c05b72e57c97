package nodeagent

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/nodeagent/content"
	"lockstep/nodeagent/pods"
	"lockstep/nodeagent/volumes"
)

const (
	// refreshPeriod is how often objects that are not watched are read, and
	// volumes compared with what they should show.
	refreshPeriod = 20 * time.Second
	// parallelUpdates bounds the pods whose volumes are updated at a time: it
	// is work for one disk.
	parallelUpdates = 8
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

// refresh keeps the content of volumes up to date until ctx ends, each pod's
// beside the others'.
func (a *Agent) refresh(ctx context.Context) error {
	defer a.content.Wait()
	updates := newBeside(parallelUpdates)
	defer updates.wait()
	t := time.NewTicker(refreshPeriod)
	defer t.Stop()
	for {
		all := false
		select {
		case <-ctx.Done():
			return nil
		case <-a.contentWake:
		case <-t.C:
			all = true
		}
		a.mu.Lock()
		due := a.contents
		a.contents = map[types.UID]bool{}
		a.mu.Unlock()
		used, watched := map[content.Reference]bool{}, map[content.Reference]bool{}
		for _, p := range a.allPods() {
			p.mu.Lock()
			object, up, gone := p.wanted.Pod, p.volumes != nil && !p.wanted.Gone, p.wanted.Gone
			p.mu.Unlock()
			ended := gone || object.Status.Phase == corev1.PodSucceeded || object.Status.Phase == corev1.PodFailed
			for ref := range content.References(object) {
				used[ref] = true
				if !ended {
					watched[ref] = true
				}
			}
			if up && changes(object) && (all || due[p.uid]) {
				updates.begin(ctx, &p.updating, func() { p.updateVolumes(ctx) })
			}
		}
		if a.api() != nil {
			a.content.Follow(ctx, watched)
		}
		if all {
			a.content.Forget(used)
		}
	}
}

// contentDue has the content of a pod's volumes looked at soon.
func (a *Agent) contentDue(uid types.UID) {
	a.mu.Lock()
	a.contents[uid] = true
	a.mu.Unlock()
	poke(a.contentWake)
}

// contentChanged updates the volumes that show the object, and tries again at
// once what failed for want of it.
func (a *Agent) contentChanged(ref content.Reference) {
	for _, p := range a.allPods() {
		object := p.object()
		if !content.References(object)[ref] {
			continue
		}
		a.contentDue(p.uid)
		p.hear(pods.ContentNews(object, ref.Secret, ref.Name))
	}
}

// updateVolumes brings the content of the pod's volumes up to date, and tells
// of those that it cannot.
func (p *pod) updateVolumes(ctx context.Context) {
	bounded, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	changed, err := p.a.volumes.Update(bounded, p.object(), p.a.volumeSources(bounded, p.a.content.Latest()))
	if ctx.Err() != nil {
		return
	}
	p.a.metrics.refreshes.Add(float64(changed))
	failed := volumes.Errors(err)
	p.a.metrics.refreshErrors.Add(float64(len(failed)))
	for _, one := range p.untold(failed, time.Now()) {
		p.log.Warn("cannot update volume", "volume", one.Volume, "error", one.Cause)
		p.event(corev1.EventTypeWarning, "FailedMount", one.Error())
	}
}

// untold remembers which volumes are stale, and returns those of which nothing,
// something else, or nothing for a while was told.
func (p *pod) untold(failed []*volumes.Error, now time.Time) []*volumes.Error {
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

// changes says whether a pod has volumes whose content may change.
func changes(o *corev1.Pod) bool {
	return slices.ContainsFunc(o.Spec.Volumes, func(v corev1.Volume) bool {
		return v.ConfigMap != nil || v.Secret != nil || v.Projected != nil || v.DownwardAPI != nil
	})
}
