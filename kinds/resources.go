package kinds

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	helpers "k8s.io/component-helpers/resource"
)

// ExtendedResource says that a name is that of a resource which nodes declare, such as example.com/gpu: it has a domain, and that is
// not Kubernetes' own.
func ExtendedResource(name corev1.ResourceName) bool {
	n := string(name)
	return strings.Contains(n, "/") && !strings.Contains(n, corev1.ResourceDefaultNamespacePrefix) &&
		!strings.HasPrefix(n, corev1.DefaultResourceRequestsPrefix) &&
		len(validation.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+n)) == 0
}

// HugePages says that a name is that of huge pages of one size, such as hugepages-2Mi.
func HugePages(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

// Within is what there is for the containers of a pod that state no limits: what its node can allocate, or of what the pod itself
// has a limit of, that. The list is not changed.
func Within(pod *corev1.Pod, allocatable corev1.ResourceList) corev1.ResourceList {
	if !helpers.IsPodLevelLimitsSet(pod) {
		return allocatable
	}
	within := maps.Clone(allocatable)
	for name := range within {
		if limit := pod.Spec.Resources.Limits[name]; !limit.IsZero() && helpers.IsSupportedPodLevelResource(name) {
			within[name] = limit
		}
	}
	return within
}

// PodLimit is what a pod's cgroup is held to of a resource, a RuntimeClass' overhead included: the pod's own limit, or the sum of its
// containers' where each of them has one. Zero: nothing.
func PodLimit(pod *corev1.Pod, name corev1.ResourceName) resource.Quantity {
	if own := OwnLimit(pod, name); own.IsZero() {
		unbounded := func(c corev1.Container) bool {
			limit := c.Resources.Limits[name]
			return limit.IsZero()
		}
		if slices.ContainsFunc(pod.Spec.InitContainers, unbounded) || slices.ContainsFunc(pod.Spec.Containers, unbounded) {
			return resource.Quantity{}
		}
	}
	return helpers.PodLimits(pod, helpers.PodResourcesOptions{})[name]
}

// OwnLimit is what a pod itself states as its limit of a resource, apart from its containers; zero: nothing.
func OwnLimit(pod *corev1.Pod, name corev1.ResourceName) resource.Quantity {
	if pod.Spec.Resources == nil {
		return resource.Quantity{}
	}
	return pod.Spec.Resources.Limits[name]
}
