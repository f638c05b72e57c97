package pods

import (
	"cmp"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds/podstatus"
)

// Progress compares how far two pods have come, by Kubernetes' order: bound to a node, running, ready.
func Progress(a, b *corev1.Pod) int {
	return cmp.Or(
		FalseFirst(a.Spec.NodeName != "", b.Spec.NodeName != ""),
		cmp.Compare(phaseOrder(a), phaseOrder(b)),
		FalseFirst(podstatus.Ready(&a.Status), podstatus.Ready(&b.Status)),
	)
}

// FalseFirst compares so that what is not comes before what is.
func FalseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func phaseOrder(p *corev1.Pod) int {
	switch p.Status.Phase {
	case corev1.PodUnknown:
		return 1
	case corev1.PodRunning:
		return 2
	}
	return 0
}

// Restarts compares how often containers were started again, the one of each pod that was most often: the pod with more goes
// first. If that is equal, the sidecars among the init containers are compared.
func Restarts(a, b *corev1.Pod) int {
	return cmp.Or(cmp.Compare(restarts(b), restarts(a)), cmp.Compare(sidecarRestarts(b), sidecarRestarts(a)))
}

func restarts(p *corev1.Pod) (most int32) {
	for _, c := range p.Status.ContainerStatuses {
		most = max(most, c.RestartCount)
	}
	return most
}

func sidecarRestarts(p *corev1.Pod) (most int32) {
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		if !podstatus.Sidecar(c) {
			continue
		}
		for _, s := range p.Status.InitContainerStatuses {
			if s.Name == c.Name {
				most = max(most, s.RestartCount)
			}
		}
	}
	return most
}
