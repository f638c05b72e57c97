package kinds

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ReplicaSetOf reads a replication controller as the replica set that it stands for, whose memory it shares.
func ReplicaSetOf(rc *corev1.ReplicationController) *appsv1.ReplicaSet {
	rs := &appsv1.ReplicaSet{
		ObjectMeta: rc.ObjectMeta,
		Spec: appsv1.ReplicaSetSpec{
			Replicas:        rc.Spec.Replicas,
			MinReadySeconds: rc.Spec.MinReadySeconds,
			Selector:        &metav1.LabelSelector{MatchLabels: rc.Spec.Selector},
		},
		Status: appsv1.ReplicaSetStatus{
			Replicas:             rc.Status.Replicas,
			FullyLabeledReplicas: rc.Status.FullyLabeledReplicas,
			ReadyReplicas:        rc.Status.ReadyReplicas,
			AvailableReplicas:    rc.Status.AvailableReplicas,
			ObservedGeneration:   rc.Status.ObservedGeneration,
		},
	}
	if rc.Spec.Template != nil {
		rs.Spec.Template = *rc.Spec.Template
	}
	for _, c := range rc.Status.Conditions {
		rs.Status.Conditions = append(rs.Status.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetConditionType(c.Type), Status: c.Status,
			LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return rs
}

func replicationControllerHealth(rc *corev1.ReplicationController, see Sight) Health {
	return replicaSetHealth(ReplicaSetOf(rc), see)
}

func replicationControllerTemplate(o Object) *corev1.PodTemplateSpec {
	return replicaSetTemplate(ReplicaSetOf(o.(*corev1.ReplicationController)))
}

func replicationControllerSelector(o Object) *metav1.LabelSelector {
	return replicaSetSelector(ReplicaSetOf(o.(*corev1.ReplicationController)))
}

func replicationControllerScale(o Object) *Scale {
	return replicaSetScale(ReplicaSetOf(o.(*corev1.ReplicationController)))
}
