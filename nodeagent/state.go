package nodeagent

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/kinds"
	"lockstep/nodeagent/client"
	"lockstep/nodeagent/register"
)

// nodeState is what the node reports about itself.
func (a *Agent) nodeState(context.Context) register.State {
	declared, usable := a.devices.Counts()
	a.tellHealth()
	inUse, err := a.csi.InUse()
	if err != nil {
		a.log.Warn("cannot tell all volumes in use", "error", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	short := func(c corev1.NodeConditionType) bool { return slices.Contains(a.conditions, c) }
	s := register.State{MemoryPressure: short(corev1.NodeMemoryPressure), DiskPressure: short(corev1.NodeDiskPressure),
		PIDPressure: short(corev1.NodePIDPressure), Images: a.nodeImages,
		Facts: a.facts, Addresses: a.ips, Version: a.opts.Version, NoNetwork: a.noNetwork,
		Declared: declared, Usable: usable, VolumesInUse: inUse}
	if a.down != "" {
		s.NotReady = []string{a.down}
	}
	if a.shutting {
		s.NotReady = append(s.NotReady, "node is shutting down")
	}
	a.reportVitals(&s, time.Now())
	if a.ingress != nil {
		http, https := a.ingress.Ports()
		s.Ingress = &register.Ingress{HTTP: http, HTTPS: https, Trouble: a.ingress.Trouble()}
	}
	return s
}

// tellHealth has pods that have devices say how those are, if that has changed.
func (a *Agent) tellHealth() {
	changes := a.devices.Changes()
	a.mu.Lock()
	told := a.deviceChanges == changes
	a.deviceChanges = changes
	a.mu.Unlock()
	if told {
		return
	}
	for _, p := range a.allPods() {
		if len(p.Devices()) > 0 {
			p.Poke()
		}
	}
}

// answerSilence has the node report at once when the cluster counts it as silent, which it is not while it can see that, until
// ctx ends.
func (a *Agent) answerSilence(ctx context.Context) error {
	wake := a.cluster.Subscribe()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		}
		if s := a.cluster.Snapshot(); s != nil && s.Complete && silent(s.Node(a.opts.NodeName)) {
			a.reportNode()
		}
	}
}

// foreign says which pods run here that the cluster has no longer: those of a node that was silent may have others in their place. What
// the node has seen of the cluster may be older than the answer, so that is asked.
func (a *Agent) foreign(ctx context.Context, api client.Interface) string {
	own, err := api.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + a.opts.NodeName})
	if err != nil {
		return "it is not known yet which pods are its own"
	}
	is := map[types.UID]bool{}
	for i := range own.Items {
		is[own.Items[i].UID] = true
	}
	left, first := 0, ""
	for _, p := range a.allPods() {
		if !is[p.UID()] {
			if name := p.Object().Namespace + "/" + p.Object().Name; first == "" || name < first {
				first = name
			}
			left++
		}
	}
	if left == 0 {
		return ""
	}
	return fmt.Sprintf("%d pods are ending that are not its own any more, the first is %s", left, first)
}

func silent(n *corev1.Node) bool { return n != nil && kinds.NodeSilent(n) }
