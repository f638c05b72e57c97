// Package autoscaler sizes workloads by what their pods use.
package autoscaler

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

const (
	// period is Kubernetes' (--horizontal-pod-autoscaler-sync-period). All are decided at the same moments, so that one round of
	// measurements serves them.
	period = 15 * time.Second
	// patience is until a measurement that is under way is asked for again.
	patience = time.Second
)

// Usage is what pods use, by their uids, as metrics.k8s.io tells it.
type Usage map[types.UID]*metricsv1beta1.PodMetrics

// Gauge tells what the pods of an autoscaler's target use, as it was measured lately. Not ok: it is being measured now, and will
// be told soon. What it returns is shared.
type Gauge func(autoscaler types.UID, now time.Time) (used Usage, ok bool)

// New returns the reconciler of HorizontalPodAutoscalers. Without a gauge, nothing is measured.
func New(gauge Gauge) loop.Reconciler {
	if gauge == nil {
		gauge = func(types.UID, time.Time) (Usage, bool) { return nil, true }
	}
	hpas := kinds.For[*autoscalingv2.HorizontalPodAutoscaler]()
	sizes := func(kind *kinds.Kind) loop.Write { return loop.Write{Kind: kind, Fields: []string{"spec.replicas"}} }
	sets := sizes(kinds.For[*appsv1.ReplicaSet]())
	sets.Shared = map[string]string{"spec.replicas": loop.OwnSize}
	return loop.Reconciler{
		Name:      "autoscaler",
		Component: "horizontal-pod-autoscaler",
		Reads: []loop.Read{
			{
				// It writes to its own objects in most turns, which is no reason for another one.
				Kind: hpas, How: "itself, when it is stated anew", Keys: loop.Self,
				Changed: func(old, new kinds.Object) bool { return old.GetGeneration() != new.GetGeneration() },
			},
			{Kind: kinds.For[*corev1.Pod](), How: "looked at every 15 s"},
		},
		Writes: []loop.Write{
			sizes(kinds.For[*appsv1.Deployment]()),
			sets,
			sizes(kinds.For[*appsv1.StatefulSet]()),
			sizes(kinds.For[*corev1.ReplicationController]()),
			{Kind: hpas, Fields: []string{"metadata.annotations." + kinds.AutoscalerMemory, "status"}},
		},
		Decide: func(v *view.View, key kinds.Key, now time.Time) (loop.Decision, error) {
			h, ok := v.Get(key).(*autoscalingv2.HorizontalPodAutoscaler)
			if !ok || h.DeletionTimestamp != nil {
				return loop.Decision{}, nil
			}
			used, ok := gauge(h.UID, now)
			if !ok {
				return loop.Decision{Again: now.Add(patience)}, nil
			}
			return decide(v, h, used, now), nil
		},
	}
}

// turn is one decision about one autoscaler.
type turn struct {
	view *view.View
	// hpa is as it was, next a copy that is changed.
	hpa, next *autoscalingv2.HorizontalPodAutoscaler
	used      Usage
	now       time.Time
	memory    memory
	decision  loop.Decision

	target  target
	current int32 // the size that the target is to have now
	least   int32 // that it is to have at least
}

func decide(v *view.View, h *autoscalingv2.HorizontalPodAutoscaler, used Usage, now time.Time) loop.Decision {
	t := &turn{
		view: v, hpa: h, next: h.DeepCopy(), used: used, now: now, memory: remembered(h), least: 1,
		decision: loop.Decision{Again: now.Truncate(period).Add(period)},
	}
	if n := h.Spec.MinReplicas; n != nil {
		t.least = *n
	}
	t.decide()
	t.store()
	return t.decision
}

func (t *turn) decide() {
	var err error
	if t.target, err = find(t.view, t.hpa); err != nil {
		t.memory.pause(t.now)
		t.warn("FailedGetScale", err.Error())
		t.set(autoscalingv2.AbleToScale, corev1.ConditionFalse, "FailedGetScale",
			"the HPA controller was unable to get the target's current scale: "+err.Error())
		return
	}
	t.set(autoscalingv2.AbleToScale, corev1.ConditionTrue, "SucceededGetScale",
		"the HPA controller was able to get the target's current scale")
	t.current = *t.target.scale.Wanted
	t.memory.begin(t.current, t.now)

	switch {
	case t.current == 0:
		t.memory.pause(t.now)
		t.set(autoscalingv2.ScalingActive, corev1.ConditionFalse, "ScalingDisabled",
			"scaling is disabled since the replica count of the target is zero")
		t.status(t.current, nil)
	case t.current > t.hpa.Spec.MaxReplicas:
		t.memory.pause(t.now)
		t.rescale(t.hpa.Spec.MaxReplicas, "Current number of replicas above Spec.MaxReplicas", nil)
	case t.current < t.least:
		t.memory.pause(t.now)
		t.rescale(t.least, "Current number of replicas below Spec.MinReplicas", nil)
	default:
		t.follow()
	}
}

// follow sizes the target by its metrics.
func (t *turn) follow() {
	proposed, metric, statuses, err := t.metrics()
	if err != nil {
		t.memory.pause(t.now)
		t.status(t.hpa.Status.DesiredReplicas, statuses)
		t.warn("FailedComputeMetricsReplicas", err.Error())
		return
	}
	reason := ""
	switch {
	case proposed > t.current:
		reason = metric + " above target"
	case proposed < t.current:
		reason = "All metrics below target"
	}
	if desired := t.normalize(proposed); desired != t.current {
		t.rescale(desired, reason, statuses)
	} else {
		t.status(t.current, statuses)
	}
}

// rescale gives the target another size.
func (t *turn) rescale(desired int32, reason string, statuses []autoscalingv2.MetricStatus) {
	failed := t.next.DeepCopy()
	refused := func(cause error) *autoscalingv2.HorizontalPodAutoscaler {
		setCondition(failed, t.now, autoscalingv2.AbleToScale, corev1.ConditionFalse, "FailedUpdateScale",
			fmt.Sprintf("the HPA controller was unable to update the target scale: %v", cause))
		setStatus(failed, t.current, t.hpa.Status.DesiredReplicas, statuses)
		return failed
	}
	failure := fmt.Sprintf("New size: %d; reason: %s; error: ", desired, reason)
	if ref := metav1.GetControllerOfNoCopy(t.target.object); ref != nil {
		err := fmt.Errorf("%s %s gives it its size", ref.Kind, ref.Name)
		t.next = refused(err)
		t.warn("FailedRescale", failure+err.Error())
		return
	}
	sized := t.target.object.DeepCopyObject().(kinds.Object)
	*kinds.Of(sized).Scale(sized).Wanted = desired
	t.decision.Wants = []loop.Want{{
		Object: sized, Reason: fmt.Sprintf("%d instead of %d replicas: %s", desired, t.current, reason),
		Done: &loop.Event{About: t.hpa, Type: corev1.EventTypeNormal, Reason: "SuccessfulRescale",
			Message: fmt.Sprintf("New size: %d; reason: %s", desired, reason)},
		Failed: &loop.Event{About: t.hpa, Type: corev1.EventTypeWarning, Reason: "FailedRescale", Message: failure + "{cause}"},
	}}
	t.decision.IfRefused = func(cause error) kinds.Object { return refused(cause) }

	t.set(autoscalingv2.AbleToScale, corev1.ConditionTrue, "SucceededRescale",
		fmt.Sprintf("the HPA controller was able to update the target scale to %d", desired))
	t.set(autoscalingv2.ScaledToZero, corev1.ConditionFalse, "NotScaledToZero",
		"the HPA controller did not scale the workload to zero")
	if t.hpa.Spec.Behavior != nil {
		t.memory.rescaled(t.current, desired, t.now)
	}
	t.status(desired, statuses)
	t.next.Status.LastScaleTime = moment(t.now)
}

// status tells what the target has, what it is to have, and what was measured.
func (t *turn) status(desired int32, statuses []autoscalingv2.MetricStatus) {
	setStatus(t.next, t.current, desired, statuses)
}

func setStatus(h *autoscalingv2.HorizontalPodAutoscaler, current, desired int32, statuses []autoscalingv2.MetricStatus) {
	h.Status.CurrentReplicas, h.Status.DesiredReplicas = current, desired
	h.Status.CurrentMetrics = statuses
	h.Status.ObservedGeneration = &h.Generation
}

func (t *turn) set(kind autoscalingv2.HorizontalPodAutoscalerConditionType, is corev1.ConditionStatus, reason, message string) {
	setCondition(t.next, t.now, kind, is, reason, message)
}

func setCondition(h *autoscalingv2.HorizontalPodAutoscaler, now time.Time, kind autoscalingv2.HorizontalPodAutoscalerConditionType,
	is corev1.ConditionStatus, reason, message string) {
	next := autoscalingv2.HorizontalPodAutoscalerCondition{
		Type: kind, Status: is, Reason: reason, Message: message, LastTransitionTime: *moment(now),
	}
	for i, c := range h.Status.Conditions {
		if c.Type != kind {
			continue
		}
		if c.Status == is {
			next.LastTransitionTime = c.LastTransitionTime
		}
		h.Status.Conditions[i] = next
		return
	}
	h.Status.Conditions = append(h.Status.Conditions, next)
}

// moment is a time as it is stored.
func moment(t time.Time) *metav1.Time { return &metav1.Time{Time: t.Truncate(time.Second)} }

func (t *turn) warn(reason, message string) {
	t.decision.Events = append(t.decision.Events,
		loop.Event{About: t.hpa, Type: corev1.EventTypeWarning, Reason: reason, Message: message})
}

// store wants the status and the memory, if they have changed.
func (t *turn) store() {
	t.memory.forget(t.hpa, t.now)
	t.memory.keep(t.next)
	if !equality.Semantic.DeepEqual(t.next, t.hpa) {
		t.decision.Status = t.next
	}
}
