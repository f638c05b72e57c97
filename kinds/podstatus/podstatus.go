// Package podstatus reads what a pod's status says, finished, ready, available, and which containers its words are of.
package podstatus

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Sidecar says that an init container runs on beside those that come after it.
func Sidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// Finished says that the pod has ended and its containers never run again.
func Finished(s *corev1.PodStatus) bool {
	return s.Phase == corev1.PodSucceeded || s.Phase == corev1.PodFailed
}

// Ready says that the pod's Ready condition is true.
func Ready(s *corev1.PodStatus) bool { return True(s, corev1.PodReady) }

// ReadySince is when the pod became ready; zero where it is not.
func ReadySince(s *corev1.PodStatus) time.Time {
	if c := Condition(s, corev1.PodReady); c != nil && c.Status == corev1.ConditionTrue {
		return c.LastTransitionTime.Time
	}
	return time.Time{}
}

// Available says that the pod has been ready for at least minReady. Where it will be, at is when; otherwise zero.
func Available(s *corev1.PodStatus, minReady time.Duration, now time.Time) (available bool, at time.Time) {
	if !Ready(s) {
		return false, time.Time{}
	}
	since := ReadySince(s)
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

// True says that the condition of that type is there and true.
func True(s *corev1.PodStatus, t corev1.PodConditionType) bool {
	c := Condition(s, t)
	return c != nil && c.Status == corev1.ConditionTrue
}

// Condition returns the condition of that type, or nil. It is the status' own.
func Condition(s *corev1.PodStatus, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i]
		}
	}
	return nil
}

// TrackImage is the annotation by which a pod asks to be told, with the value "true", when a tag that its containers' images were
// pulled by is moved.
const TrackImage = "lockstep.dev/track-image"

// ImageMoved is the condition that tells it; its message says which tag.
const ImageMoved corev1.PodConditionType = "lockstep.dev/ImageMoved"

// Preempted says that the pod ends, or has ended, to make room for another of higher priority.
func Preempted(s *corev1.PodStatus) bool {
	c := Condition(s, corev1.DisruptionTarget)
	return c != nil && c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonPreemptionByScheduler
}
