package strategy

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"lockstep/kinds"
)

// resizesPod says that an update changes resources of a pod or of its containers, for which Kubernetes' API has a subresource.
func resizesPod(new, old kinds.Object) bool {
	pod, was := &new.(*corev1.Pod).Spec, &old.(*corev1.Pod).Spec
	same := func(a, b []corev1.Container) bool {
		return slices.EqualFunc(a, b, func(a, b corev1.Container) bool {
			return a.Name != b.Name || equality.Semantic.DeepEqual(a.Resources, b.Resources)
		})
	}
	if !equality.Semantic.DeepEqual(pod.Resources, was.Resources) {
		return true
	}
	return len(pod.Containers) == len(was.Containers) && len(pod.InitContainers) == len(was.InitContainers) &&
		!(same(pod.Containers, was.Containers) && same(pod.InitContainers, was.InitContainers))
}
