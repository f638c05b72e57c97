// Package pods reads from a pod what controllers ask of it: active, ready, available.
package pods

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Finished says that the pod has ended and its containers never run again.
func Finished(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// Active says that the pod runs or will run, and nobody has asked it to stop.
func Active(p *corev1.Pod) bool { return !Finished(p) && p.DeletionTimestamp == nil }

// Terminating says that the pod was asked to stop and has not ended.
func Terminating(p *corev1.Pod) bool { return !Finished(p) && p.DeletionTimestamp != nil }

// Ready says that the pod's Ready condition is true.
func Ready(p *corev1.Pod) bool {
	c := Condition(p, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// ReadySince is when the pod became ready; zero where it is not.
func ReadySince(p *corev1.Pod) time.Time {
	if c := Condition(p, corev1.PodReady); c != nil && c.Status == corev1.ConditionTrue {
		return c.LastTransitionTime.Time
	}
	return time.Time{}
}

// Available says that the pod has been ready for at least minReady. Where it will be, at is when; otherwise zero.
func Available(p *corev1.Pod, minReady time.Duration, now time.Time) (available bool, at time.Time) {
	if !Ready(p) {
		return false, time.Time{}
	}
	since := ReadySince(p)
	if minReady == 0 {
		return true, time.Time{}
	}
	if since.IsZero() {
		return false, time.Time{}
	}
	if at := since.Add(minReady); at.After(now) {
		return false, at
	}
	return true, time.Time{}
}

// Condition returns the pod's condition of that type, or nil. It is the pod's own.
func Condition(p *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == t {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}
