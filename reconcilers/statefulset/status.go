package statefulset

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
)

// failedCreate is why a condition and an event tell that a pod cannot be had.
const failedCreate = "FailedCreate"

// status counts the pods. again is when the next of them becomes available by time alone.
func (r *rollout) status() (s appsv1.StatefulSetStatus, again time.Time) {
	collisions := r.history.Collisions
	s = appsv1.StatefulSetStatus{
		ObservedGeneration: r.set.Generation,
		CurrentRevision:    r.current.Name,
		UpdateRevision:     r.history.Update.Name,
		CollisionCount:     &collisions,
		Conditions:         r.set.Status.Conditions,
	}
	for _, m := range slices.Concat(r.replicas, r.condemned) {
		if m.pod == nil {
			continue
		}
		s.Replicas++
		if m.ready() {
			s.ReadyReplicas++
		}
		available, at := r.available(m)
		if available {
			s.AvailableReplicas++
		}
		if !at.IsZero() && (again.IsZero() || at.Before(again)) {
			again = at
		}
		if m.pod.DeletionTimestamp != nil {
			continue
		}
		if m.revision == s.CurrentRevision {
			s.CurrentReplicas++
		}
		if m.revision == s.UpdateRevision {
			s.UpdatedReplicas++
		}
	}
	s.CurrentReplicas -= r.retired
	r.finish(&s)
	return s, again
}

// finish makes the update revision the current one when all replicas have it.
func (r *rollout) finish(s *appsv1.StatefulSetStatus) {
	want := int32(len(r.replicas))
	if s.UpdatedReplicas == want && s.ReadyReplicas == want && s.Replicas == want {
		s.CurrentRevision, s.CurrentReplicas = s.UpdateRevision, s.UpdatedReplicas
	}
}

// withStatus returns the set with that status, and the condition ReplicaFailure while cause says that its pods cannot be had;
// nil where nothing changes. Kubernetes tells of it by events alone.
func withStatus(set *appsv1.StatefulSet, status appsv1.StatefulSetStatus, cause error, now time.Time) kinds.Object {
	status.Conditions = slices.DeleteFunc(slices.Clone(status.Conditions), func(c appsv1.StatefulSetCondition) bool {
		return c.Type == kinds.StatefulSetReplicaFailure && (cause == nil || c.Message != cause.Error())
	})
	if cause != nil && !slices.ContainsFunc(status.Conditions, func(c appsv1.StatefulSetCondition) bool {
		return c.Type == kinds.StatefulSetReplicaFailure
	}) {
		status.Conditions = append(status.Conditions, appsv1.StatefulSetCondition{
			Type: kinds.StatefulSetReplicaFailure, Status: corev1.ConditionTrue, Reason: failedCreate, Message: cause.Error(),
			LastTransitionTime: metav1.NewTime(now.Truncate(time.Second)),
		})
	}
	if equality.Semantic.DeepEqual(set.Status, status) {
		return nil
	}
	changed := set.DeepCopy()
	changed.Status = status
	return changed
}
