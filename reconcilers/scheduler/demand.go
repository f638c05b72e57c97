package scheduler

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// demand is what a pod asks of a node, compiled once for all pods alike: each row reads what it needs.
type demand struct {
	load        load
	tolerations []corev1.Toleration
	selective   bool // required refuses some nodes, perhaps
	required    nodeaffinity.RequiredNodeAffinity
	preferred   *nodeaffinity.PreferredSchedulingTerms // nil for none

	volumes volumes

	images []string
	local  []int64 // how much of them nodes have, as a score; nil: none has any

	needs, avoids, avoided, likes []*tally
	needsItself                   bool // the pod is one of those that it wants to be near
	constraints                   []corev1.TopologySpreadConstraint
	spread, spreadSoftly          []constraint
	spreadByDefault               bool // they are not the pod's own
	defaults                      []corev1.TopologySpreadConstraint
	defaultsListed                bool // and are a profile's own

	priority  int32          // of the pod
	variables map[string]any // of it for expressions
	spent     uint64         // on an expression, for the pod
	failed    error          // an expression, for a node
	failing   string         // that node; empty: for all together
}

// survey has a demand look at where pods are. It fails as newDemand does.
func (d *demand) survey(c *cluster) error {
	if err := d.surveyVolumes(c); err != nil {
		return err
	}
	d.local = c.locality(d.images)
	d.surveyPods(c)
	return d.surveySpread(c)
}

// newDemand fails where what the pod asks cannot be understood; the error is its refusal.
func newDemand(p *corev1.Pod, l load) (*demand, error) {
	d := &demand{
		load: l, defaults: defaultSpread(), priority: priority(p), tolerations: p.Spec.Tolerations,
		constraints: p.Spec.TopologySpreadConstraints, images: imagesOf(p),
	}
	if err := d.readNodeAffinity(p); err != nil {
		return nil, err
	}
	return d, nil
}
