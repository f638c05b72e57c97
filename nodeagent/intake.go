package nodeagent

import (
	"context"
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	helpers "k8s.io/component-helpers/resource"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper/qos"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/nodeagent/eviction"
	"lockstep/nodeagent/pod"
	"lockstep/nodeagent/pods"
	"lockstep/nodeagent/shutdown"
	"lockstep/nodeagent/spec"
)

// bound is an agent as it is told of the pods that are bound to its node.
type bound struct{ *Agent }

// Seen implements cluster.Pods.
func (a bound) Seen(o *corev1.Pod) {
	lost := a.found(o.UID)
	a.mu.Lock()
	p := a.pods[o.UID]
	a.mu.Unlock()
	if lost && p != nil {
		p.StartAnew()
	}
	if p == nil {
		p = a.host.New(o)
		if reason, message := a.take(p, o); reason != "" {
			p = a.host.Refused(o, reason, message)
		}
		if err := a.records.SavePod(o); err != nil {
			p.Log().Warn("cannot keep pod", "error", err)
		}
		a.mu.Lock()
		a.pods[o.UID] = p
		a.mu.Unlock()
		a.runPod(p)
		poke(a.contentWake) // what it refers to is watched
		poke(a.tiersWake)   // what it requests is its class's
		return
	}
	old := p.Update(o)
	if p.Wanted().Resize != nil {
		poke(a.resizeWake)
	}
	if pods.Relabelled(old, o) {
		a.contentDue(o.UID)
	}
	if pods.KeepAgain(old, o) {
		if err := p.Keep(); err != nil {
			p.Log().Warn("cannot keep pod", "error", err)
		}
	}
}

// take gives a pod what it needs of the node beside the pods that are there, or says why it cannot. A pod that the node has taken
// before is only given its devices, which nobody has kept.
func (a *Agent) take(p *pod.Pod, o *corev1.Pod) (reason, message string) {
	before := pods.Admitted(o)
	if o.DeletionTimestamp != nil || podstatus.Finished(&o.Status) {
		return "", ""
	}
	if reason, message = spec.Unfit(a.nodeFacts(), o); reason != "" && !before {
		return reason, message
	}
	a.mu.Lock()
	conditions, shutting := a.conditions, a.shutting
	a.mu.Unlock()
	if shutting && !before {
		return shutdown.RefusedReason, shutdown.RefusedMessage
	}
	if message = eviction.Refuses(conditions, o, qos.GetPodQOS(o)); message != "" && !before {
		return pods.ReasonEvicted, message
	}
	others, held := a.beside()
	healthy := a.devices.Healthy()
	given, err := pods.Assign(healthy, held, o)
	if err != nil {
		return pods.Unexpected(err)
	}
	if !before {
		if reason, message = pods.Admit(a.allocatable(o), others, o); reason != "" {
			return reason, message
		}
	}
	if err := p.Give(given); err != nil {
		return pods.Unexpected(err)
	}
	return "", ""
}

// allocatable is what a new pod may ask for: of the machine, of its manifest's extended resources, and of its devices. Until the manifest
// is known, there is as much as the pod asks for: who bound it has counted.
func (a *Agent) allocatable(p *corev1.Pod) corev1.ResourceList {
	out := maps.Clone(a.nodeFacts().Allocatable)
	if stated := a.stated.Load(); stated != nil {
		maps.Copy(out, *stated)
	} else {
		for name, quantity := range helpers.PodRequests(p, helpers.PodResourcesOptions{}) {
			if kinds.ExtendedResource(name) {
				out[name] = quantity
			}
		}
	}
	_, usable := a.devices.Counts()
	maps.Copy(out, usable)
	return out
}

// beside is what a new pod meets on the node: other pods, and the devices that they hold until everything of them is down. Those of a
// lost history give way.
func (a *Agent) beside() (others []pods.Wanted, held map[string]bool) {
	held = map[string]bool{}
	for _, p := range a.allPods() {
		if a.isLost(p.UID()) {
			continue
		}
		w := p.Wanted()
		others = append(others, w)
		if !podstatus.Finished(&w.Pod.Status) {
			maps.Copy(held, p.Devices().Held())
		}
	}
	return others, held
}

// Deleted implements cluster.Pods. A lost history's pods the API cannot have.
func (a bound) Deleted(uid types.UID) {
	if !a.isLost(uid) {
		a.podGone(uid)
	}
}

func (a *Agent) podGone(uid types.UID) {
	a.mu.Lock()
	p := a.pods[uid]
	a.mu.Unlock()
	if p != nil {
		p.End()
	}
}

// Listed implements cluster.Pods: pods that the API does not have end, and containers of pods that do not exist.
func (a bound) Listed(ctx context.Context, uids map[types.UID]bool) {
	for _, p := range a.allPods() {
		if !uids[p.UID()] {
			a.Deleted(p.UID())
		}
	}
	a.relistLogged(ctx)
}
