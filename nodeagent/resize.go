package nodeagent

import (
	"cmp"
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	helpers "k8s.io/component-helpers/resource"
	scheduling "k8s.io/component-helpers/scheduling/corev1"

	"lockstep/kinds/podstatus"
	"lockstep/nodeagent/pod"
	"lockstep/nodeagent/pods"
)

// resizePeriod is how often changes of pods' resources that wait are looked at though nobody said that something became free.
const resizePeriod = 30 * time.Second

// resizePods takes over changes of pods' resources, those that do not fit once they do, until ctx ends.
func (a *Agent) resizePods(ctx context.Context) error {
	t := time.NewTicker(resizePeriod)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.resizeWake:
		case <-t.C:
		}
		waiting := map[*pod.Pod]pods.Wanted{}
		var order []*pod.Pod
		for _, p := range a.allPods() {
			if w := p.Wanted(); w.Resize != nil && !w.Refused() && w.Pod.DeletionTimestamp == nil && !podstatus.Finished(&w.Pod.Status) {
				waiting[p] = w
				order = append(order, p)
			}
		}
		slices.SortFunc(order, func(x, y *pod.Pod) int { return sooner(waiting[x], waiting[y]) })
		for _, p := range order {
			a.resize(p, waiting[p].Resize)
		}
	}
}

// sooner orders changes of resources as the kubelet does: those that free something first, then by priority, then by age.
func sooner(x, y pods.Wanted) int {
	grows := func(w pods.Wanted) int {
		before := helpers.PodRequests(w.Pod, helpers.PodResourcesOptions{})
		after := helpers.PodRequests(w.Resize.Pod, helpers.PodResourcesOptions{})
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			if b, a := before[name], after[name]; a.Cmp(b) > 0 {
				return 1
			}
		}
		return 0
	}
	return cmp.Or(cmp.Compare(grows(x), grows(y)), cmp.Compare(scheduling.PodPriority(y.Pod), scheduling.PodPriority(x.Pod)),
		x.Pod.CreationTimestamp.Compare(y.Pod.CreationTimestamp.Time), cmp.Compare(x.Pod.UID, y.Pod.UID))
}

func (a *Agent) resize(p *pod.Pod, r *pods.Resize) {
	others, _ := a.beside()
	if reason, message := pods.Fits(a.nodeFacts().Allocatable, others, r.Pod); reason != "" {
		p.Unresized(r, reason, message)
		return
	}
	if err := p.Resized(r); err != nil {
		p.Log().Warn("cannot keep pod", "error", err)
	}
	poke(a.tiersWake)
}
