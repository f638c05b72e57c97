package nodeagent

import (
	"context"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"lockstep/kinds/podstatus"
	"lockstep/nodeagent/machine"
	"lockstep/nodeagent/spec"
)

// tiersPeriod is how often the cgroups of QoS classes are set anew though nobody said that pods came or went, the kubelet's figure.
const tiersPeriod = time.Minute

// keepTiers gives the cgroups of QoS classes what the node's pods request, until ctx ends.
func (a *Agent) keepTiers(ctx context.Context) error {
	t := time.NewTicker(tiersPeriod)
	defer t.Stop()
	var last map[string]*specs.LinuxResources
	for {
		var those []*corev1.Pod
		for _, p := range a.allPods() {
			if w := p.Wanted(); !w.Refused() && !podstatus.Finished(&w.Pod.Status) {
				those = append(those, w.Pod)
			}
		}
		if tiers := spec.Tiers(those, a.nodeFacts()); !equality.Semantic.DeepEqual(tiers, last) {
			last = tiers
			if err := machine.SetTiers(a.opts.NodeName, tiers); err != nil {
				a.log.Warn("cannot set the shares of QoS classes", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-a.tiersWake:
		case <-t.C:
			last = nil
		}
	}
}
