package nodeagent

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/nodeagent/pods"
	"lockstep/nodeagent/spec"
)

// bound is an agent as it is told of the pods that are bound to its node.
type bound struct{ *Agent }

// Seen implements cluster.Pods.
func (a bound) Seen(o *corev1.Pod) {
	a.found(o.UID)
	a.mu.Lock()
	p := a.pods[o.UID]
	a.mu.Unlock()
	if p == nil {
		p = a.host.New(o)
		if !pods.Admitted(o) {
			if reason, message := a.admit(o); reason != "" {
				p = a.host.Refused(o, reason, message)
			}
		}
		if err := a.records.SavePod(o); err != nil {
			p.Log().Warn("cannot keep pod", "error", err)
		}
		a.mu.Lock()
		a.pods[o.UID] = p
		a.mu.Unlock()
		a.runPod(p)
		poke(a.contentWake) // what it refers to is watched
		return
	}
	old := p.Update(o)
	if pods.Relabelled(old, o) {
		a.contentDue(o.UID)
	}
	if pods.KeepAgain(old, o) {
		if err := p.Keep(); err != nil {
			p.Log().Warn("cannot keep pod", "error", err)
		}
	}
}

// admit says why the node cannot take the pod beside those it has. Those of a lost history give way.
func (a *Agent) admit(o *corev1.Pod) (reason, message string) {
	if reason, message = spec.Unfit(a.nodeFacts(), o); reason != "" {
		return reason, message
	}
	var others []pods.Wanted
	for _, p := range a.allPods() {
		if !a.isLost(p.UID()) {
			others = append(others, p.Wanted())
		}
	}
	return pods.Admit(a.nodeFacts().Allocatable, others, o)
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
