package health

import (
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
	"lockstep/store/view"
)

// Silence says since when a node that counts as silent has not been heard of, "node b has been silent for 40 s"; empty
// for a node that is heard of, and for one that is not there.
func Silence(v *view.View, node string, now time.Time) string {
	n, ok := view.Get[*corev1.Node](v, "", node)
	if !ok {
		return ""
	}
	c := kinds.NodeCondition(n, corev1.NodeReady)
	if c == nil || c.Status != corev1.ConditionUnknown {
		return ""
	}
	heard := c.LastHeartbeatTime.Time
	lease, ok := view.Get[*coordinationv1.Lease](v, corev1.NamespaceNodeLease, node)
	if ok && lease.Spec.RenewTime != nil && lease.Spec.RenewTime.After(heard) {
		heard = lease.Spec.RenewTime.Time
	}
	if heard.IsZero() {
		return "node " + node + " has never been heard of"
	}
	return "node " + node + silentFor + ago(now.Sub(heard))
}

const silentFor = " has been silent for "

// ago writes a duration in its one unit that matters.
func ago(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", max(0, d/time.Second))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	}
	return fmt.Sprintf("%d h", d/time.Hour)
}
