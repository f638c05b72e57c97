package nodeagent

import (
	"context"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/nodeagent/pod"
	"lockstep/nodeagent/pods"
)

const (
	// refreshPeriod is how often objects that are not watched are read, and
	// volumes compared with what they should show.
	refreshPeriod = 20 * time.Second
	// parallelUpdates bounds the pods whose volumes are updated at a time: it
	// is work for one disk.
	parallelUpdates = 8
)

// refresh keeps the content of volumes up to date until ctx ends, each pod's
// beside the others'.
func (a *Agent) refresh(ctx context.Context) error {
	defer a.content.Wait()
	updates := pod.NewBeside(parallelUpdates)
	defer updates.Wait()
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
		used, watched := map[pods.Reference]bool{}, map[pods.Reference]bool{}
		for _, p := range a.allPods() {
			wanted := p.Wanted()
			phase := wanted.Pod.Status.Phase
			ended := wanted.Gone || phase == corev1.PodSucceeded || phase == corev1.PodFailed
			for ref := range pods.References(wanted.Pod) {
				used[ref] = true
				if !ended {
					watched[ref] = true
				}
			}
			if all || due[p.UID()] {
				p.UpdateVolumes(ctx, updates)
			}
		}
		if a.api() != nil {
			a.content.Follow(ctx, watched)
		}
		if all {
			maps.Copy(used, a.content.Bound(used))
			a.content.Forget(used)
			a.tokens.Forget(owner{a}.Knows)
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
func (a *Agent) contentChanged(ref pods.Reference) {
	for _, p := range a.allPods() {
		object := p.Object()
		if !pods.References(object)[ref] {
			continue
		}
		a.contentDue(p.UID())
		if ref.Resource == pods.PersistentVolumeClaims {
			poke(a.growWake)
		}
		p.Hear(pods.ContentNews(object, ref))
	}
}
