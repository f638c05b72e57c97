package replicaset

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"lockstep/kinds/podstatus"
)

// statusOf counts the pods. again is when the next of them becomes available by time alone.
func statusOf(rs *appsv1.ReplicaSet, active, terminating []*corev1.Pod, now time.Time) (status appsv1.ReplicaSetStatus, again time.Time) {
	status = appsv1.ReplicaSetStatus{
		ObservedGeneration: rs.Generation,
		Replicas:           int32(len(active)),
		Conditions:         rs.Status.Conditions,
	}
	ending := int32(len(terminating))
	status.TerminatingReplicas = &ending
	template := labels.SelectorFromSet(rs.Spec.Template.Labels)
	minReady := time.Duration(rs.Spec.MinReadySeconds) * time.Second
	for _, p := range active {
		if template.Matches(labels.Set(p.Labels)) {
			status.FullyLabeledReplicas++
		}
		if podstatus.Ready(&p.Status) {
			status.ReadyReplicas++
		}
		available, at := podstatus.Available(&p.Status, minReady, now)
		if available {
			status.AvailableReplicas++
		}
		if !at.IsZero() && (again.IsZero() || at.Before(again)) {
			again = at
		}
	}
	return status, again
}

// withFailure returns the status with the condition ReplicaFailure while cause says that the pods cannot be had.
func withFailure(status appsv1.ReplicaSetStatus, want int32, cause error, now time.Time) appsv1.ReplicaSetStatus {
	failing := slices.IndexFunc(status.Conditions, func(c appsv1.ReplicaSetCondition) bool {
		return c.Type == appsv1.ReplicaSetReplicaFailure
	})
	switch {
	case cause == nil && failing >= 0:
		status.Conditions = slices.Delete(slices.Clone(status.Conditions), failing, failing+1)
	case cause != nil && failing < 0:
		reason := "FailedCreate"
		if status.Replicas > want {
			reason = "FailedDelete"
		}
		status.Conditions = append(slices.Clone(status.Conditions), appsv1.ReplicaSetCondition{
			Type:               appsv1.ReplicaSetReplicaFailure,
			Status:             corev1.ConditionTrue,
			Reason:             reason,
			Message:            cause.Error(),
			LastTransitionTime: metav1.NewTime(now.Truncate(time.Second)),
		})
	}
	return status
}

func equal(a, b appsv1.ReplicaSetStatus) bool {
	ending := func(s appsv1.ReplicaSetStatus) int32 {
		if s.TerminatingReplicas == nil {
			return -1
		}
		return *s.TerminatingReplicas
	}
	return a.Replicas == b.Replicas && a.FullyLabeledReplicas == b.FullyLabeledReplicas && a.ReadyReplicas == b.ReadyReplicas &&
		a.AvailableReplicas == b.AvailableReplicas && a.ObservedGeneration == b.ObservedGeneration && ending(a) == ending(b) &&
		slices.Equal(a.Conditions, b.Conditions)
}
