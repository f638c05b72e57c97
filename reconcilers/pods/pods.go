// Package pods is what controllers of pods share: which pods count.
package pods

import (
	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds/podstatus"
)

// Active says that the pod runs or will run, and nobody has asked it to stop.
func Active(p *corev1.Pod) bool { return !podstatus.Finished(&p.Status) && p.DeletionTimestamp == nil }

// Terminating says that the pod was asked to stop and has not ended.
func Terminating(p *corev1.Pod) bool {
	return !podstatus.Finished(&p.Status) && p.DeletionTimestamp != nil
}
