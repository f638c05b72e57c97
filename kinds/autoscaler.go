package kinds

import (
	"strings"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// AutoscalerMemory is the annotation in which an autoscaler keeps what it has decided lately.
const AutoscalerMemory = "lockstep.dev/autoscaling"

// autoscalerControllers keeps its memory in an annotation.
func autoscalerControllers() []Controller {
	return []Controller{{Of: autoscaling().WithKind("HorizontalPodAutoscaler"), Annotations: AutoscalerMemory}}
}

// ScaleTarget is the object that an autoscaler sizes, whether it is there or not; ok says that its kind has a scale. Whatever
// version is stated, the one that is served is meant, as in Kubernetes.
func ScaleTarget(h *autoscalingv2.HorizontalPodAutoscaler) (k Key, ok bool) {
	ref := h.Spec.ScaleTargetRef
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return Key{}, false
	}
	for _, kind := range All {
		if kind.Group == gv.Group && kind.Kind == ref.Kind && kind.Scalable() {
			return kind.Key(h.Namespace, ref.Name), true
		}
	}
	return Key{}, false
}

// metricPatience is how long an autoscaler may lack measurements before that is a failure: pods of a rollout are measured
// twice before they tell anything, and for two minutes what they use to start counts only where they are ready.
const metricPatience = 3 * time.Minute

// autoscalerHealth: it reads and sets the size of its target, and knows what the target's pods use.
func autoscalerHealth(h *autoscalingv2.HorizontalPodAutoscaler, see Sight) Health {
	said := map[autoscalingv2.HorizontalPodAutoscalerConditionType]autoscalingv2.HorizontalPodAutoscalerCondition{}
	for _, c := range h.Status.Conditions {
		said[c.Type] = c
	}
	able, active := said[autoscalingv2.AbleToScale], said[autoscalingv2.ScalingActive]
	switch {
	case able.Status == corev1.ConditionFalse:
		return Health{State: Failed, Cause: shortly(able)}
	case h.Status.ObservedGeneration == nil || *h.Status.ObservedGeneration < h.Generation:
		return Health{Cause: "not observed yet"}
	case active.Status != corev1.ConditionFalse || active.Reason == "ScalingDisabled":
		return Health{State: Healthy}
	}
	cause := shortly(active)
	if until := active.LastTransitionTime.Add(metricPatience); measures(active.Reason) && see.Now().Before(until) {
		return Health{Cause: cause, Again: until}
	}
	return Health{State: Failed, Cause: cause}
}

// shortly words a condition without what its reason says already, as "the HPA was unable to compute the replica count": a commit
// status has little room for the cause.
func shortly(c autoscalingv2.HorizontalPodAutoscalerCondition) string {
	cause := c.Message
	if what, why, ok := strings.Cut(cause, ": "); ok && strings.HasPrefix(what, "the HPA ") {
		cause = why
	}
	return c.Reason + ": " + cause
}

// measures says that an autoscaler is not active for a reason that the next measurement may mend.
func measures(reason string) bool {
	return reason == "FailedGetResourceMetric" || reason == "FailedGetContainerResourceMetric"
}
