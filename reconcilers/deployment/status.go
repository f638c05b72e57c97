package deployment

import (
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	reasonAvailable = "NewReplicaSetAvailable"
	reasonTimedOut  = "ProgressDeadlineExceeded"
	reasonPaused    = "DeploymentPaused"
)

// limited says that an optional limit is one: Kubernetes takes the largest number for none.
func limited(limit *int32) bool { return limit != nil && *limit != math.MaxInt32 }

func (r *rollout) hasDeadline() bool { return limited(r.d.Spec.ProgressDeadlineSeconds) }

// pausing notes in the conditions that the deployment was paused or resumed, so that the time it was paused does not
// count against its deadline. One that has missed the deadline keeps saying so.
func (r *rollout) pausing() {
	if !r.hasDeadline() {
		return
	}
	c := r.conditions().get(appsv1.DeploymentProgressing)
	noted := c != nil && c.Reason == reasonPaused
	switch {
	case c != nil && c.Reason == reasonTimedOut:
	case r.d.Spec.Paused && !noted:
		r.conditions().put(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonPaused, "Deployment is paused")
	case !r.d.Spec.Paused && noted:
		r.conditions().put(appsv1.DeploymentProgressing, corev1.ConditionUnknown, "DeploymentResumed", "Deployment is resumed")
	}
}

// syncStatus sets the deployment's status without judging its progress.
func (r *rollout) syncStatus() { r.d.Status = r.counted() }

// counted is the status that the replica sets make.
func (r *rollout) counted() appsv1.DeploymentStatus {
	sets := r.all()
	status := appsv1.DeploymentStatus{
		ObservedGeneration: r.d.Generation,
		Replicas:           total(sets, func(s *set) int32 { return s.Status.Replicas }),
		ReadyReplicas:      total(sets, func(s *set) int32 { return s.Status.ReadyReplicas }),
		AvailableReplicas:  total(sets, func(s *set) int32 { return s.Status.AvailableReplicas }),
		CollisionCount:     r.d.Status.CollisionCount,
		Conditions:         slices.Clone(r.d.Status.Conditions),
	}
	if r.new != nil {
		status.UpdatedReplicas = r.new.Status.Replicas
	}
	status.UnavailableReplicas = max(0, total(sets, (*set).size)-status.AvailableReplicas)
	// Unknown as long as one set has not counted.
	terminating, known := int32(0), true
	for _, s := range sets {
		if s.Status.TerminatingReplicas == nil {
			known = false
			continue
		}
		terminating += *s.Status.TerminatingReplicas
	}
	if known {
		status.TerminatingReplicas = &terminating
	}
	set := conditions{&status, r.now}
	if status.AvailableReplicas >= r.desired()-r.maxUnavailable() {
		set.put(appsv1.DeploymentAvailable, corev1.ConditionTrue, "MinimumReplicasAvailable", "Deployment has minimum availability.")
	} else {
		set.put(appsv1.DeploymentAvailable, corev1.ConditionFalse, "MinimumReplicasUnavailable",
			"Deployment does not have minimum availability.")
	}
	return status
}

// complete says that all pods are of the new template and available, and nothing else runs.
func (r *rollout) complete(status *appsv1.DeploymentStatus) bool {
	return status.UpdatedReplicas == r.desired() && status.Replicas == r.desired() &&
		status.AvailableReplicas == r.desired() && status.ObservedGeneration >= r.d.Generation
}

// syncRollout sets the deployment's status during a rollout: how it progresses, and whether it has missed its deadline.
func (r *rollout) syncRollout() {
	status := r.counted()
	set := conditions{&status, r.now}
	before := r.conditions().get(appsv1.DeploymentProgressing)
	switch {
	case !r.hasDeadline():
		set.remove(appsv1.DeploymentProgressing)
	case status.Replicas == status.UpdatedReplicas && before != nil && before.Reason == reasonAvailable:
		// The rollout was complete before: what happens now is not its progress.
	case r.complete(&status):
		set.put(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonAvailable, r.subject()+" has successfully progressed.")
	case r.progressed(&status):
		// Each progress counts, also one with the same reason: the deadline runs from the latest.
		set.replace(appsv1.DeploymentProgressing, corev1.ConditionTrue, "ReplicaSetUpdated", r.subject()+" is progressing.")
	case r.timedOut(set.get(appsv1.DeploymentProgressing)):
		set.put(appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonTimedOut, r.subject()+" has timed out progressing.")
	}
	if failure := r.replicaFailure(); failure != nil {
		set.putCondition(*failure)
	} else {
		set.remove(appsv1.DeploymentReplicaFailure)
	}
	r.d.Status = status
	r.again = r.deadline()
}

func (r *rollout) subject() string {
	if r.new == nil {
		return fmt.Sprintf("Deployment %q", r.d.Name)
	}
	return fmt.Sprintf("ReplicaSet %q", r.new.Name)
}

// progressed compares with the status before: more new pods, fewer old ones, more ready or more available. A status that nobody has
// observed, of a rollout that was, has counts that a program wrote: they are nothing to compare with.
func (r *rollout) progressed(status *appsv1.DeploymentStatus) bool {
	was := r.was.Status
	if was.ObservedGeneration == 0 && (conditions{&was, r.now}).get(appsv1.DeploymentProgressing) != nil {
		return false
	}
	return status.UpdatedReplicas > was.UpdatedReplicas ||
		status.Replicas-status.UpdatedReplicas < was.Replicas-was.UpdatedReplicas ||
		status.ReadyReplicas > was.ReadyReplicas || status.AvailableReplicas > was.AvailableReplicas
}

func (r *rollout) timedOut(c *appsv1.DeploymentCondition) bool {
	switch {
	case c == nil || c.Reason == reasonAvailable:
		return false
	case c.Reason == reasonTimedOut:
		return true
	}
	return c.LastUpdateTime.Add(r.progressDeadline()).Before(r.now)
}

// deadline is when to look whether the rollout still progresses; zero: there is nothing to look for. It is a second
// late since times in conditions are whole seconds.
func (r *rollout) deadline() time.Time {
	c := r.conditions().get(appsv1.DeploymentProgressing)
	if !r.hasDeadline() || c == nil || c.Reason == reasonTimedOut || c.Reason == reasonAvailable || r.complete(&r.d.Status) {
		return time.Time{}
	}
	return c.LastUpdateTime.Add(r.progressDeadline() + time.Second)
}

func (r *rollout) progressDeadline() time.Duration {
	return time.Duration(*r.d.Spec.ProgressDeadlineSeconds) * time.Second
}

// replicaFailure takes over the failure of a replica set, the new one's first.
func (r *rollout) replicaFailure() *appsv1.DeploymentCondition {
	sets := r.all()
	slices.Reverse(sets)
	for _, s := range sets {
		for _, c := range s.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure {
				return &appsv1.DeploymentCondition{
					Type: appsv1.DeploymentReplicaFailure, Status: c.Status, Reason: c.Reason, Message: c.Message,
					LastTransitionTime: c.LastTransitionTime, LastUpdateTime: c.LastTransitionTime,
				}
			}
		}
	}
	return nil
}

func (r *rollout) conditions() conditions { return conditions{&r.d.Status, r.now} }

// conditions changes the conditions of a status that is the caller's own.
type conditions struct {
	status *appsv1.DeploymentStatus
	now    time.Time
}

func (c conditions) get(t appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	i := slices.IndexFunc(c.status.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == t })
	if i < 0 {
		return nil
	}
	return &c.status.Conditions[i]
}

// put sets a condition; one that has the same status and reason already stays as it is.
func (c conditions) put(t appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) {
	c.putCondition(c.at(t, status, reason, message))
}

func (c conditions) putCondition(new appsv1.DeploymentCondition) {
	if old := c.get(new.Type); old != nil && old.Status == new.Status && old.Reason == new.Reason {
		return
	}
	c.set(new)
}

// replace sets a condition, its time of update too, whatever it was before.
func (c conditions) replace(t appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) {
	c.set(c.at(t, status, reason, message))
}

// set appends the condition in place of the old one, whose transition time it keeps where the status is the same.
func (c conditions) set(new appsv1.DeploymentCondition) {
	if old := c.get(new.Type); old != nil && old.Status == new.Status {
		new.LastTransitionTime = old.LastTransitionTime
	}
	c.remove(new.Type)
	c.status.Conditions = append(c.status.Conditions, new)
}

func (c conditions) remove(t appsv1.DeploymentConditionType) {
	c.status.Conditions = slices.DeleteFunc(c.status.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == t })
}

func (c conditions) at(t appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) appsv1.DeploymentCondition {
	now := metav1.NewTime(c.now.Truncate(time.Second))
	return appsv1.DeploymentCondition{
		Type: t, Status: status, Reason: reason, Message: message, LastUpdateTime: now, LastTransitionTime: now,
	}
}
