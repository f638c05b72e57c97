package plan

import (
	"fmt"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
)

// unmeasured says that an autoscaler asks for a utilization of what its target's pods do not request, or of a container that they do
// not have, by which it never sizes anything. Requests count as pods get them: from their limits and their namespace's LimitRanges, too.
func unmeasured(h *autoscalingv2.HorizontalPodAutoscaler, then *after) string {
	key, ok := kinds.ScaleTarget(h)
	if !ok {
		return ""
	}
	target := then.Get(key)
	if target == nil {
		return ""
	}
	pod, _ := podOf(target)
	if pod == nil {
		return ""
	}
	then.rules.Default(pod)
	if err := then.rules.Admit(pod, then); err != nil {
		return ""
	}
	for i, m := range h.Spec.Metrics {
		what := ""
		switch {
		case m.Resource != nil && m.Resource.Target.AverageUtilization != nil:
			what = unrequested(pod, m.Resource.Name, "")
		case m.ContainerResource != nil && m.ContainerResource.Target.AverageUtilization != nil:
			what = unrequested(pod, m.ContainerResource.Name, m.ContainerResource.Container)
		}
		if what != "" {
			return fmt.Sprintf("metric %d: %v %s", i, key, what)
		}
	}
	return ""
}

// unrequested says why there is no utilization of a resource, in one container or, empty, in all that last; empty: there is one.
func unrequested(pod *corev1.Pod, of corev1.ResourceName, container string) string {
	if container == "" && resourcehelper.IsPodLevelRequestsSet(pod) {
		return ""
	}
	found := false
	look := func(c *corev1.Container) string {
		if container != "" && c.Name != container {
			return ""
		}
		found = true
		if _, ok := c.Resources.Requests[of]; ok {
			return ""
		}
		return fmt.Sprintf("requests no %s in container %s, so there is no utilization of it, and nothing is sized by it", of, c.Name)
	}
	for i := range pod.Spec.Containers {
		if what := look(&pod.Spec.Containers[i]); what != "" {
			return what
		}
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; podstatus.Sidecar(c) {
			if what := look(c); what != "" {
				return what
			}
		}
	}
	if !found {
		return "has no container " + container
	}
	return ""
}
