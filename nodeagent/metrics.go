package nodeagent

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds/drift"
	"lockstep/nodeagent/pod"
	"lockstep/nodeagent/probes"
)

// metrics are the agent's own; proxy and DNS have theirs.
type metrics struct {
	pods                      *pod.Metrics
	reportSeconds             *prometheus.HistogramVec
	reportErrors              *prometheus.CounterVec
	pullSeconds, probeSeconds *prometheus.HistogramVec
	drift                     *prometheus.CounterVec
	tunnels                   prometheus.Gauge
	keepSeconds               prometheus.Histogram
	keepErrors                prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	counters := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "lockstep_agent_" + name, Help: help}, []string{label})
	}
	seconds := func(name, help string, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "lockstep_agent_" + name, Help: help,
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 10)}, labels)
	}
	m := &metrics{
		pods:          pod.NewMetrics(r),
		reportErrors:  counters("report_errors_total", "Writes to the API that failed.", "what"),
		reportSeconds: seconds("report_seconds", "How long writes to the API took.", "what"),
		pullSeconds:   seconds("pull_seconds", "How long pulls of images took.", "result"),
		probeSeconds:  seconds("probe_seconds", "How long probes took.", "probe", "result"),
		drift: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lockstep_agent_drift_total",
			Help: "Differences found on the node though nobody asked for them, by kind and whether they were repaired: yes or no.",
		}, []string{"kind", "repaired"}),
		keepSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "lockstep_agent_state_keep_seconds",
			Help:    "How long it took to keep the cluster's state on disk.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 10),
		}),
		keepErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "lockstep_agent_state_keep_errors_total",
			Help: "Failures to keep the cluster's state on disk.",
		}),
		tunnels: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "lockstep_agent_tunnel_requests",
			Help: "Requests under way from API servers.",
		}),
	}
	r.MustRegister(m.reportErrors, m.reportSeconds, m.pullSeconds, m.probeSeconds, m.drift, m.tunnels, m.keepSeconds, m.keepErrors)
	return m
}

// differed counts a difference once it is known whether it is repaired.
func (m *metrics) differed(f *drift.Finding) {
	switch {
	case !f.Repaired.IsZero():
		m.drift.WithLabelValues(string(f.Kind), "yes").Inc()
	case f.Settled():
		m.drift.WithLabelValues(string(f.Kind), "no").Inc()
	}
}

// report counts one write to the API.
func (m *metrics) report(what string, began time.Time, err error) {
	m.reportSeconds.WithLabelValues(what).Observe(time.Since(began).Seconds())
	if err != nil {
		m.reportErrors.WithLabelValues(what).Inc()
	}
}

var (
	descPods       = prometheus.NewDesc("lockstep_agent_pods", "Pods of this node, by phase.", []string{"phase"}, nil)
	descContainers = prometheus.NewDesc("lockstep_agent_containers_running", "Running containers.", nil, nil)
	descFailing    = prometheus.NewDesc("lockstep_agent_pods_failing", "Pods with a step that waits to be tried again.", nil, nil)
	descWatched    = prometheus.NewDesc("lockstep_agent_objects_watched", "ConfigMaps and Secrets that are watched for pods.", nil, nil)
	descStatuses   = prometheus.NewDesc("lockstep_agent_status_queue_depth", "Pod statuses that wait to be written.", nil, nil)
	descContainerd = prometheus.NewDesc("lockstep_agent_containerd_up", "1 while containerd answers.", nil, nil)
	descLogBytes   = prometheus.NewDesc("lockstep_agent_log_bytes", "Bytes that the log keeper read of the open streams.", nil, nil)
	descLogDropped = prometheus.NewDesc("lockstep_agent_log_dropped_lines",
		"Lines of the open streams that the log keeper could not write.", nil, nil)
)

func (m *metrics) kept(took time.Duration, err error) {
	m.keepSeconds.Observe(took.Seconds())
	if err != nil {
		m.keepErrors.Inc()
	}
}

func (m *metrics) pulled(took time.Duration, err error) {
	result := "success"
	if err != nil {
		result = "error"
	}
	m.pullSeconds.WithLabelValues(result).Observe(took.Seconds())
}

func (m *metrics) probed(kind probes.Kind, result string, took time.Duration) {
	m.probeSeconds.WithLabelValues(string(kind), result).Observe(took.Seconds())
}

// gauges is a prometheus.Collector of the state of an agent that is open.
type gauges struct{ a *Agent }

// Describe implements prometheus.Collector.
func (g gauges) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descPods, descContainers, descFailing, descWatched, descStatuses, descContainerd, descLogBytes, descLogDropped,
	} {
		out <- d
	}
}

// keeperPatience bounds asking the log keeper, which answers in well under a millisecond.
const keeperPatience = time.Second

// Collect implements prometheus.Collector.
func (g gauges) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	phases, running, failing := map[corev1.PodPhase]float64{}, 0, 0
	for _, p := range g.a.allPods() {
		phase, runs, fails := p.Counts()
		phases[phase]++
		running += runs
		failing += min(fails, 1)
	}
	for phase, n := range phases {
		gauge(descPods, n, string(phase))
	}
	gauge(descContainers, float64(running))
	gauge(descFailing, float64(failing))
	gauge(descWatched, float64(g.a.content.Watched()))
	g.a.statuses.mu.Lock()
	gauge(descStatuses, float64(len(g.a.statuses.due)))
	g.a.statuses.mu.Unlock()
	g.a.mu.Lock()
	up := 1.0
	if g.a.down != "" {
		up = 0
	}
	g.a.mu.Unlock()
	gauge(descContainerd, up)
	ctx, cancel := context.WithTimeout(context.Background(), keeperPatience)
	defer cancel()
	if stats, err := g.a.logs.Stats(ctx); err == nil { // without an answer there is no value
		var bytes, dropped float64
		for _, s := range stats.Streams {
			bytes, dropped = bytes+float64(s.Bytes), dropped+float64(s.DroppedLines)
		}
		gauge(descLogBytes, bytes)
		gauge(descLogDropped, dropped)
	}
}
