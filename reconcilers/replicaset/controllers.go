package replicaset

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
)

// Controllers returns the reconciler of replication controllers, which are replica sets with an older form: their selector is
// a map, and no Deployment has them.
func Controllers() loop.Reconciler {
	return reconciler("replicationcontroller", "replication-controller", form[*corev1.ReplicationController]{
		set: kinds.ReplicaSetOf,
		withStatus: func(rc *corev1.ReplicationController, status appsv1.ReplicaSetStatus) kinds.Object {
			changed := rc.DeepCopy()
			changed.Status = corev1.ReplicationControllerStatus{
				Replicas:             status.Replicas,
				FullyLabeledReplicas: status.FullyLabeledReplicas,
				ReadyReplicas:        status.ReadyReplicas,
				AvailableReplicas:    status.AvailableReplicas,
				ObservedGeneration:   status.ObservedGeneration,
			}
			for _, c := range status.Conditions {
				changed.Status.Conditions = append(changed.Status.Conditions, corev1.ReplicationControllerCondition{
					Type: corev1.ReplicationControllerConditionType(c.Type), Status: c.Status,
					LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
				})
			}
			return changed
		},
	})
}
