package nodeagent

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
	"lockstep/nodeagent/register"
)

// nodeState is what the node reports about itself.
func (a *Agent) nodeState(context.Context) register.State {
	left, err := register.ReadLeft(a.facts.Memory, a.opts.DataDir, a.imageDir)
	if err != nil {
		a.log.Warn("cannot measure the node", "error", err)
	}
	declared, usable := a.devices.Counts()
	a.mu.Lock()
	defer a.mu.Unlock()
	var now register.Pressures
	if err == nil {
		now = a.pressure.Note(left.Crossed(), time.Now())
	}
	s := register.State{MemoryPressure: now.Memory, DiskPressure: now.Disk, PIDPressure: now.PID, Images: a.nodeImages,
		Facts: a.facts, Addresses: a.ips, Version: a.opts.Version, NoNetwork: a.noNetwork,
		Declared: declared, Usable: usable}
	if a.down != "" {
		s.NotReady = []string{a.down}
	}
	a.reportVitals(&s, time.Now())
	return s
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

func silent(n *corev1.Node) bool {
	if n == nil {
		return false
	}
	c := kinds.NodeCondition(n, corev1.NodeReady)
	return c != nil && c.Status == corev1.ConditionUnknown
}
