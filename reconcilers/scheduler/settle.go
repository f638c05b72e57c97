package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"

	"lockstep/kinds"
)

// unsettled says that the round has chosen for a claim of the class, which is not stored yet.
func (r *round) unsettled(c *class) bool {
	return c.demand != nil &&
		slices.ContainsFunc(c.demand.volumes.late, func(l late) bool { return r.settled[kinds.KeyOf(l.claim)] })
}

// settled says that nothing is to be chosen for the pod's claims. Of what is, a node that the pod is nominated to may be the one where
// nobody could make a volume.
func (d *demand) settled() bool {
	return !slices.ContainsFunc(d.volumes.late, func(l late) bool { return !l.settled })
}

// settle chooses the volumes for a pod's claims on its node.
func (r *round) settle(c *class, p *corev1.Pod, n *nodeInfo, why string) Reservation {
	out := Reservation{Pod: p, Node: n.name, Reason: why}
	on := c.demand.volumesOn(n, &r.cluster)
	for _, g := range on.given {
		pv, changed, err := volume.GetBindVolumeToClaim(g.pv, g.claim)
		if err == nil && changed { // it fails for kinds that Kubernetes does not know
			out.Volumes = append(out.Volumes, pv)
		}
		r.taken[g.pv.Name] = g.pv
	}
	for _, claim := range on.made {
		if claim.Annotations[volume.AnnSelectedNode] != n.name {
			claim = claim.DeepCopy()
			metav1.SetMetaDataAnnotation(&claim.ObjectMeta, volume.AnnSelectedNode, n.name)
			out.Claims = append(out.Claims, claim)
		}
	}
	for _, l := range c.demand.volumes.late {
		r.cluster.settled[kinds.KeyOf(l.claim)] = true
	}
	return out
}
