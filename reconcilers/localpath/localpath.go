// Package localpath has the volumes of claims made, and given up, that are directories of nodes.
//
// The directories are the nodes' business: a volume names its node, and the node makes the directory when the first pod mounts it.
// A volume that is given up stays until its node has taken the finalizer away, after the data.
package localpath

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/component-helpers/storage/volume"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// component signs the events, as a provisioner of Kubernetes' signs them.
const component = kinds.LocalPath

// nodeChanged says whether a change of a node is of matter to its volumes.
func nodeChanged(old, new kinds.Object) bool {
	if old == nil || new == nil {
		return true
	}
	was, n := old.(*corev1.Node), new.(*corev1.Node)
	return silent(was) != silent(n) || kinds.NodeReady(was) != kinds.NodeReady(n) ||
		was.Annotations[kinds.LocalPath] != n.Annotations[kinds.LocalPath] ||
		was.Spec.Unschedulable != n.Spec.Unschedulable || !maps.Equal(was.Labels, n.Labels) ||
		!equality.Semantic.DeepEqual(was.Spec.Taints, n.Spec.Taints) || !was.DeletionTimestamp.Equal(n.DeletionTimestamp)
}

// silent says that nothing is heard of a node, or nothing was yet.
func silent(n *corev1.Node) bool {
	return kinds.NodeCondition(n, corev1.NodeReady) == nil || kinds.NodeSilent(n)
}

// waits says whether a claim may wait for a volume of this provisioner: it was told to, or a node was selected, which is for whatever
// provisioner its class has.
func waits(c *corev1.PersistentVolumeClaim) bool {
	return c.Spec.VolumeName == "" && c.DeletionTimestamp == nil &&
		(c.Annotations[volume.AnnStorageProvisioner] == kinds.LocalPath || c.Annotations[volume.AnnSelectedNode] != "")
}

// waiting are the claims that wait.
func waiting(v *view.View, _ kinds.Object) (keys []kinds.Key) {
	for c := range view.List[*corev1.PersistentVolumeClaim](v, "") {
		if waits(c) {
			keys = append(keys, kinds.KeyOf(c))
		}
	}
	return keys
}

func normal(reason, message string) loop.Event {
	return loop.Event{Type: corev1.EventTypeNormal, Reason: reason, Message: message}
}

func warning(reason, message string) loop.Event {
	return loop.Event{Type: corev1.EventTypeWarning, Reason: reason, Message: message}
}
