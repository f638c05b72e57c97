package nodeagent

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/kinds/drift"
	"lockstep/nodeagent/pod"
	"lockstep/nodeagent/runtime"
)

const (
	// relistPeriod is how long a lost event can go unnoticed.
	relistPeriod = time.Minute
	// collectPeriod is how often the disk is looked at for images to remove;
	// Kubernetes' figure.
	collectPeriod = 5 * time.Minute
)

// observe turns containerd's events into wake-ups of the pods they concern.
func (a *Agent) observe(ctx context.Context) error {
	return a.rt.Watch(ctx, func(e runtime.Event) {
		if e.ID == "" {
			a.group.Go(func() error {
				a.relistLogged(ctx)
				return nil
			})
			return
		}
		a.mu.Lock()
		p := a.claims[e.ID]
		a.mu.Unlock()
		switch {
		case p == nil && e.Made:
			a.group.Go(func() error {
				a.inspect(ctx, e.ID)
				return nil
			})
		case p == nil:
		case e.Paused:
			a.group.Go(func() error {
				a.paused(ctx, p)
				return nil
			})
		case e.OOM:
			p.OOM(e.ID)
		case e.Exited:
			a.group.Go(func() error {
				if err := p.Settle(ctx, e.ID); err != nil && ctx.Err() == nil {
					p.Log().Warn("cannot learn how container ended", "container", e.ID, "error", err)
				}
				return nil
			})
		}
	})
}

// inspect looks at a container that appeared and is no known instance.
func (a *Agent) inspect(ctx context.Context, id string) {
	c, err := a.rt.Get(ctx, id)
	if err != nil {
		return // gone again
	}
	if c.Foreign {
		a.removeForeign(ctx, c)
	}
}

// removeForeign removes a container that nobody asked for, and tells.
func (a *Agent) removeForeign(ctx context.Context, c runtime.Container) {
	f := drift.Finding{ID: fmt.Sprintf("foreign/%s/%d", c.ID, c.CreatedAt.UnixNano()), Kind: drift.Foreign, Place: c.ID,
		What:  fmt.Sprintf("image %q in the containerd namespace %s, which is this node's alone", c.Image, runtime.Namespace),
		Since: c.CreatedAt, Evidence: []string{fmt.Sprintf("made %s, first process %d", c.CreatedAt.UTC().Format(time.RFC3339Nano), c.PID)}}
	if err := a.rt.Remove(ctx, c.ID, false); err != nil {
		f.How = "it cannot be removed: " + err.Error()
		a.differs(f)
		return
	}
	f.Repaired, f.How = time.Now(), "removed"
	a.differs(f)
	a.drift("RemovedForeignContainer", fmt.Sprintf("Removed container %s (image %q): nobody asked for it", c.ID, c.Image))
}

// drift reports a repaired difference on the node's object.
func (a *Agent) drift(reason, message string) {
	a.events.Event(&corev1.ObjectReference{Kind: "Node", Name: a.opts.NodeName, UID: types.UID(a.opts.NodeName)},
		corev1.EventTypeWarning, reason, message)
}

func (a *Agent) relistLoop(ctx context.Context) error {
	t := time.NewTicker(relistPeriod)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			a.relistLogged(ctx)
		}
	}
}

func (a *Agent) relistLogged(ctx context.Context) {
	err := a.relist(ctx)
	if ctx.Err() != nil {
		return
	}
	why := ""
	if err != nil {
		why = "containerd does not answer"
	}
	a.mu.Lock()
	changed := a.down != why
	a.down = why
	a.mu.Unlock()
	if !changed {
		return
	}
	if err != nil {
		a.log.Warn("cannot list containers", "error", err)
	}
	a.reportNode()
}

// relist compares everything that containerd has with what is known: it finds
// what events lost. Each pod's containers are taken in beside the others': a
// shim that does not answer holds up its own pod.
func (a *Agent) relist(ctx context.Context) error {
	began := time.Now()
	list, err := a.rt.List(ctx)
	if err != nil {
		return err
	}
	known := a.cluster.Snapshot()
	synced := known != nil && known.Complete // so that a pod which is not known does not exist
	seen := map[string]bool{}
	found, orphans := map[*pod.Pod][]runtime.Container{}, map[*pod.Pod]bool{}
	for _, p := range a.allPods() {
		found[p] = nil
	}
	var looks sync.WaitGroup
	defer looks.Wait()
	for _, c := range list {
		seen[c.ID] = c.State != runtime.Absent
		if c.Foreign {
			looks.Go(func() { a.removeForeign(ctx, c) })
			continue
		}
		a.mu.Lock()
		p := a.pods[types.UID(c.PodUID)]
		if p != nil {
			a.claims[c.ID] = p
		}
		a.mu.Unlock()
		if p == nil && synced {
			var adopted bool
			p, adopted = a.adoptOrphan(c)
			orphans[p] = adopted
		}
		if p != nil {
			found[p] = append(found[p], c)
		}
	}
	for p, cs := range found {
		looks.Go(func() {
			p.Relist(ctx, cs, seen, began)
			if orphans[p] {
				a.runPod(p)
			}
		})
	}
	return nil
}

// adoptOrphan takes up the pod of a container, which nobody knows, to end it
// properly: it is run once its containers are known.
func (a *Agent) adoptOrphan(c runtime.Container) (p *pod.Pod, adopted bool) {
	o := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: c.PodNamespace, Name: c.PodName, UID: types.UID(c.PodUID)}}
	p = a.host.Orphan(o)
	a.mu.Lock()
	if other := a.pods[o.UID]; other != nil {
		a.mu.Unlock()
		return other, false
	}
	a.pods[o.UID] = p
	a.claims[c.ID] = p
	a.mu.Unlock()
	a.log.Warn("ending container of a pod that does not exist", "pod", c.PodNamespace+"/"+c.PodName, "container", c.Name)
	a.differs(drift.Finding{ID: "orphan/" + c.ID, Kind: drift.Orphan, Place: c.ID, Since: c.CreatedAt, Repaired: time.Now(), How: "ended",
		What: fmt.Sprintf("container %s of pod %s/%s, which does not exist", c.Name, c.PodNamespace, c.PodName)})
	a.drift("RemovedOrphan", fmt.Sprintf("Ending container %s of pod %s/%s, which does not exist", c.Name, c.PodNamespace, c.PodName))
	return p, true
}

// sweepLayers removes layers that were prepared and never used, and views of
// images for pods that vanished. It must run while no step is in flight, and
// when nothing of those pods is mounted any more.
func (a *Agent) sweepLayers(ctx context.Context) {
	ids, err := a.rt.Layers(ctx)
	if err != nil {
		a.log.Warn("cannot list layers", "error", err)
		return
	}
	list, err := a.rt.List(ctx)
	if err != nil {
		return
	}
	used := map[string]bool{}
	for _, c := range list {
		used[c.ID] = true
	}
	for _, id := range ids {
		uid, view := runtime.ViewOwner(id)
		if !used[id] && !(view && owner{a}.Knows(types.UID(uid))) {
			if err := a.rt.DropLayer(ctx, id); err != nil {
				a.log.Warn("cannot remove layer", "error", err)
			}
		}
	}
}

func (a *Agent) execProbe(ctx context.Context, id string, command []string, began func()) (int, string, error) {
	code, out, err := a.rt.ExecBegun(ctx, id, command, began)
	return code, string(out), err
}

func (a *Agent) probeChanged(uid types.UID) {
	a.mu.Lock()
	p := a.pods[uid]
	a.mu.Unlock()
	if p != nil {
		p.Poke()
	}
}

func (a *Agent) probeFailed(uid types.UID, container, message string) {
	a.probeEvent(uid, container, "Unhealthy", message)
}

func (a *Agent) probeWarned(uid types.UID, container, message string) {
	a.probeEvent(uid, container, "ProbeWarning", message)
}

func (a *Agent) probeEvent(uid types.UID, container, reason, message string) {
	a.mu.Lock()
	p := a.pods[uid]
	a.mu.Unlock()
	if p != nil {
		p.ContainerEvent(container, corev1.EventTypeWarning, reason, message)
	}
}
