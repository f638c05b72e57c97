package watch

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
)

// lean is what nodes need of each other: which pods are behind which addresses. A node's status has much more, and changes all
// the time: its heartbeat alone would go to every other node.
func lean(o kinds.Object) kinds.Object {
	n := o.(*corev1.Node)
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: n.Name, UID: n.UID, ResourceVersion: n.ResourceVersion, CreationTimestamp: n.CreationTimestamp, Labels: n.Labels,
		},
		Spec:   corev1.NodeSpec{PodCIDR: n.Spec.PodCIDR, PodCIDRs: n.Spec.PodCIDRs},
		Status: corev1.NodeStatus{Addresses: n.Status.Addresses},
	}
}

// sameLean says whether two states of a node are one to the others.
func sameLean(a, b kinds.Object) bool {
	old, ok1 := a.(*corev1.Node)
	next, ok2 := b.(*corev1.Node)
	return ok1 && ok2 && old.UID == next.UID && maps.Equal(old.Labels, next.Labels) &&
		slices.Equal(old.Spec.PodCIDRs, next.Spec.PodCIDRs) && slices.Equal(old.Status.Addresses, next.Status.Addresses)
}
