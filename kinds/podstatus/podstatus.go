// Package podstatus reads what a pod's status says, finished, ready, available, and which containers its words are of.
package podstatus

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

// Gates are the conditions that a program may set by which a pod is ready: those of its readinessGates that neither nodes nor the
// cluster set.
func Gates(pod *corev1.Pod) (out []corev1.PodConditionType) {
	for _, g := range pod.Spec.ReadinessGates {
		if !own(g.ConditionType) {
			out = append(out, g.ConditionType)
		}
	}
	return out
}

// own says that nodes or the cluster set a condition.
func own(t corev1.PodConditionType) bool {
	switch t {
	case corev1.PodScheduled, corev1.PodReady, corev1.PodInitialized, corev1.ContainersReady, corev1.DisruptionTarget,
		corev1.PodReadyToStartContainers, corev1.PodResizePending, corev1.PodResizeInProgress, corev1.AllContainersRestarting:
		return true
	}
	return strings.HasPrefix(string(t), "lockstep.dev/")
}

// GatesNotReady is the reason for which a pod is not ready whose containers are, while a readiness gate is closed.
const GatesNotReady = "ReadinessGatesNotReady"

// ClosedGates are the readiness gates that a pod waits for.
func ClosedGates(pod *corev1.Pod) (out []string) {
	for _, g := range pod.Spec.ReadinessGates {
		if !True(&pod.Status, g.ConditionType) {
			out = append(out, string(g.ConditionType))
		}
	}
	return out
}

// UnmetGates says why a pod whose containers are ready is not, in the kubelet's words; empty: it is.
func UnmetGates(pod *corev1.Pod, s *corev1.PodStatus) string {
	var unmet []string
	for _, g := range pod.Spec.ReadinessGates {
		switch c := Condition(s, g.ConditionType); {
		case c == nil:
			unmet = append(unmet, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", g.ConditionType))
		case c.Status != corev1.ConditionTrue:
			unmet = append(unmet, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", g.ConditionType, c.Status))
		}
	}
	return strings.Join(unmet, ", ")
}

// Preempted says that the pod ends, or has ended, to make room for another of higher priority.
func Preempted(s *corev1.PodStatus) bool {
	c := Condition(s, corev1.DisruptionTarget)
	return c != nil && c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonPreemptionByScheduler
}

// Disrupted notes in a pod's status that it is about to end for a reason that is not its own, in the words that are given.
func Disrupted(p *corev1.Pod, reason, message string, now time.Time) {
	is := corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, Message: message,
		LastTransitionTime: metav1.NewTime(now.Truncate(time.Second)),
	}
	if p.Status.ObservedGeneration != 0 {
		is.ObservedGeneration = p.Generation
	}
	c := Condition(&p.Status, corev1.DisruptionTarget)
	switch {
	case c == nil:
		p.Status.Conditions = append(p.Status.Conditions, is)
	default:
		if c.Status == is.Status {
			is.LastTransitionTime = c.LastTransitionTime
		}
		*c = is
	}
}

// EvictedByAPI is Kubernetes' reason of what ends a pod by an eviction, as nobody's decision about the pod itself.
const EvictedByAPI = "EvictionByEvictionAPI"

// Evicted notes in a pod's status that it is about to be evicted.
func Evicted(p *corev1.Pod, now time.Time) { Disrupted(p, EvictedByAPI, "Eviction API: evicting", now) }
