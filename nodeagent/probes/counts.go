package probes

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
)

// counts are of all probes made, by the kubelet's names and labels; those of a pod go with it.
type counts struct {
	registry *prometheus.Registry
	total    *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

func newCounts() *counts {
	c := &counts{
		registry: prometheus.NewRegistry(),
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "prober_probe_total",
			Help: "Cumulative number of a liveness, readiness or startup probe for a container by result.",
		}, []string{"container", "namespace", "pod", "pod_uid", "probe_type", "result"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "prober_probe_duration_seconds", Help: "Duration in seconds for a probe response.",
		}, []string{"container", "namespace", "pod", "probe_type"}),
	}
	c.registry.MustRegister(c.total, c.duration)
	return c
}

// note counts a probe; one that could not be made counts as unknown, and one that failed has no duration, as in Kubernetes.
func (c *counts) note(pod *corev1.Pod, container string, kind Kind, result string, took time.Duration) {
	label := map[string]string{"success": "successful", "failure": "failed"}[result]
	if label == "" {
		label = "unknown"
	}
	c.total.WithLabelValues(container, pod.Namespace, pod.Name, string(pod.UID), string(kind), label).Inc()
	if label != "failed" {
		c.duration.WithLabelValues(container, pod.Namespace, pod.Name, string(kind)).Observe(took.Seconds())
	}
}

func (c *counts) forget(pod *corev1.Pod) {
	c.total.DeletePartialMatch(prometheus.Labels{"pod_uid": string(pod.UID)})
	c.duration.DeletePartialMatch(prometheus.Labels{"namespace": pod.Namespace, "pod": pod.Name})
}

// Metrics are of the probes made of the pods that there are.
func (m *Manager) Metrics() prometheus.Gatherer { return m.counts.registry }
