package stats

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func described(name, help string, labels []string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

func ofEach(name, help string) *prometheus.Desc { return described(name, help, ofItsContainer) }

// The kubelet's names (https://kubernetes.io/docs/reference/instrumentation/metrics).
var (
	ofPod          = []string{"namespace", "pod"}
	ofItsContainer = []string{"container", "namespace", "pod"}

	nodeCPU          = described("node_cpu_usage_seconds_total", "Cumulative cpu time consumed by the node in core-seconds", nil)
	nodeMemory       = described("node_memory_working_set_bytes", "Current working set of the node in bytes", nil)
	nodeSwap         = described("node_swap_usage_bytes", "Current swap usage of the node in bytes.", nil)
	podCPU           = described("pod_cpu_usage_seconds_total", "Cumulative cpu time consumed by the pod in core-seconds", ofPod)
	podMemory        = described("pod_memory_working_set_bytes", "Current working set of the pod in bytes", ofPod)
	podSwap          = described("pod_swap_usage_bytes", "Current amount of the pod swap usage in bytes.", ofPod)
	containerCPU     = ofEach("container_cpu_usage_seconds_total", "Cumulative cpu time consumed by the container in core-seconds")
	containerMemory  = ofEach("container_memory_working_set_bytes", "Current working set of the container in bytes")
	containerSwap    = ofEach("container_swap_usage_bytes", "Current amount of the container swap usage in bytes.")
	containerStarted = ofEach("container_start_time_seconds", "Start time of the container since unix epoch in seconds")
	resourceError    = described("resource_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise", nil)
)

// resources has one pod a name: its labels tell no more.
func resources(m *moment) text {
	return func(out chan<- prometheus.Metric) {
		add := func(u *use, cpu, memory, swap *prometheus.Desc, labels ...string) {
			if !u.known {
				return
			}
			for _, one := range []struct {
				desc  *prometheus.Desc
				kind  prometheus.ValueType
				value float64
			}{
				{cpu, prometheus.CounterValue, time.Duration(u.cpu).Seconds()},
				{memory, prometheus.GaugeValue, float64(u.workingSet)},
				{swap, prometheus.GaugeValue, float64(u.swap)},
			} {
				out <- prometheus.NewMetricWithTimestamp(m.at, prometheus.MustNewConstMetric(one.desc, one.kind, one.value, labels...))
			}
		}
		add(&m.node, nodeCPU, nodeMemory, nodeSwap)
		for _, p := range m.newest() {
			add(&p.use, podCPU, podMemory, podSwap, p.Namespace, p.Name)
			for _, c := range p.newest() {
				add(&c.use, containerCPU, containerMemory, containerSwap, c.Name, p.Namespace, p.Name)
				if !c.StartTime.IsZero() {
					started := float64(c.StartTime.UnixNano()) / float64(time.Second)
					out <- prometheus.MustNewConstMetric(containerStarted, prometheus.GaugeValue, started, c.Name, p.Namespace, p.Name)
				}
			}
		}
		out <- prometheus.MustNewConstMetric(resourceError, prometheus.GaugeValue, 0)
	}
}

// Resource answers GET /metrics/resource, which is CPU and memory only.
func (c *Collector) Resource(w http.ResponseWriter, r *http.Request) {
	c.expose(w, r, false, resources)
}
