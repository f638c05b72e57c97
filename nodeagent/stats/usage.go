package stats

import (
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// usage of CPU, which takes two readings, and of memory; false where there is none yet, or nothing left to measure.
func (u *use) usage() (corev1.ResourceList, bool) {
	per := u.perSecond()
	if !u.known || per == nil || u.workingSet == 0 {
		return nil, false
	}
	return corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewScaledQuantity(int64(*per), resource.Nano),
		corev1.ResourceMemory: *resource.NewQuantity(int64(u.workingSet), resource.BinarySI),
	}, true
}

// nodeUsage is what the node uses, false where that is not known yet.
func nodeUsage(name string, m *moment) (*metricsv1beta1.NodeMetrics, bool) {
	usage, ok := m.node.usage()
	return &metricsv1beta1.NodeMetrics{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Timestamp:  metav1.NewTime(m.node.last.at), Window: window(m.node.window()), Usage: usage,
	}, ok
}

func window(d time.Duration) metav1.Duration {
	return metav1.Duration{Duration: d.Round(time.Millisecond)}
}

// podUsage is what pods use. One of whose containers nothing is known yet is not in it, as metrics-server has it: a sum of
// some of them would be no pod's. Its time is the earliest of its containers', its window that one's.
func podUsage(m *moment) *metricsv1beta1.PodMetricsList {
	list := &metricsv1beta1.PodMetricsList{}
	for _, p := range m.newest() {
		if one, ok := p.metrics(); ok {
			list.Items = append(list.Items, one)
		}
	}
	return list
}

func (p *podUse) metrics() (metricsv1beta1.PodMetrics, bool) {
	out := metricsv1beta1.PodMetrics{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: p.UID}}
	for _, c := range p.newest() {
		usage, ok := c.usage()
		if !ok {
			return out, false
		}
		out.Containers = append(out.Containers, metricsv1beta1.ContainerMetrics{Name: c.Name, Usage: usage})
		if out.Timestamp.IsZero() || c.last.at.Before(out.Timestamp.Time) {
			out.Timestamp, out.Window = metav1.NewTime(c.last.at), window(c.window())
		}
	}
	return out, len(out.Containers) > 0
}

// NodeUsage answers GET /usage/node with a NodeMetrics of metrics.k8s.io/v1beta1 in protobuf, 404 before there is a rate.
func (c *Collector) NodeUsage(w http.ResponseWriter, r *http.Request) {
	c.answer(w, r, false, func(m *moment) {
		usage, ok := nodeUsage(c.options.NodeName, m)
		if !ok {
			http.Error(w, "the node was measured for the first time", http.StatusNotFound)
			return
		}
		send(w, usage)
	})
}

// PodUsage answers GET /usage/pods with a PodMetricsList of metrics.k8s.io/v1beta1 in protobuf.
func (c *Collector) PodUsage(w http.ResponseWriter, r *http.Request) {
	c.answer(w, r, false, func(m *moment) { send(w, podUsage(m)) })
}

func send(w http.ResponseWriter, o interface{ Marshal() ([]byte, error) }) {
	body, err := o.Marshal()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/protobuf")
	_, _ = w.Write(body)
}
