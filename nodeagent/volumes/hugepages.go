package volumes

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// hasPages says whether a medium is huge pages, HugePages or HugePages-<size>.
func hasPages(medium corev1.StorageMedium) bool {
	return medium == corev1.StorageMediumHugePages || strings.HasPrefix(string(medium), string(corev1.StorageMediumHugePagesPrefix))
}

// pageSize is the size in bytes of the huge pages that a volume of the pod is made of: the medium's or, where that says none, the
// one that the pod requests. The errors are the kubelet's.
func pageSize(pod *corev1.Pod, medium corev1.StorageMedium) (int64, error) {
	own, sized := strings.CutPrefix(string(medium), string(corev1.StorageMediumHugePagesPrefix))
	var wanted resource.Quantity
	if sized {
		var err error
		if wanted, err = resource.ParseQuantity(own); err != nil {
			return 0, fmt.Errorf("cannot read the size of medium %s: %w", medium, err)
		}
	}
	found := map[int64]bool{}
	add := func(requests corev1.ResourceList) {
		for name := range requests {
			size, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix)
			if q, err := resource.ParseQuantity(size); ok && err == nil && (!sized || q.Cmp(wanted) == 0) {
				found[q.Value()] = true
			}
		}
	}
	if pod.Spec.Resources != nil {
		add(pod.Spec.Resources.Requests)
	}
	for _, cs := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range cs {
			add(cs[i].Resources.Requests)
		}
	}
	if len(found) > 1 {
		return 0, fmt.Errorf("medium: %s can't be used if container requests multiple huge page sizes", medium)
	}
	for size := range found {
		return size, nil
	}
	return 0, fmt.Errorf("medium %s: hugePages storage requested, but there is no resource request for huge pages", medium)
}
