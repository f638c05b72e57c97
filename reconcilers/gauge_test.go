package reconcilers

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"lockstep/reconcilers/autoscaler"
)

// saidByUID is a gauge for cases in files: what pods use stands in the autoscaler's uid, "web-1=250m/64Mi web-2=90m/64Mi", and of
// a second container behind a comma. One that ends in "..." is being measured.
func saidByUID(uid types.UID, now time.Time) (autoscaler.Usage, bool) {
	if strings.HasSuffix(string(uid), "...") {
		return nil, false
	}
	used := autoscaler.Usage{}
	for word := range strings.FieldsSeq(string(uid)) {
		pod, uses, ok := strings.Cut(word, "=")
		if !ok {
			continue
		}
		m := &metricsv1beta1.PodMetrics{Timestamp: metav1.NewTime(now), Window: metav1.Duration{Duration: 15 * time.Second}}
		for i, use := range strings.Split(uses, ",") {
			cpu, memory, _ := strings.Cut(use, "/")
			m.Containers = append(m.Containers, metricsv1beta1.ContainerMetrics{
				Name: []string{"main", "side"}[i],
				Usage: corev1.ResourceList{
					corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory),
				},
			})
		}
		used[types.UID("pod-"+pod)] = m
	}
	return used, true
}
