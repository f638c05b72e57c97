package engine

import "github.com/prometheus/client_golang/prometheus"

// metrics are the engine's own; the label is the reconciler's name.
type metrics struct {
	depth     prometheus.Gauge
	latency   *prometheus.HistogramVec
	deciding  *prometheus.HistogramVec
	acting    *prometheus.HistogramVec
	decisions *prometheus.CounterVec
	writes    *prometheus.CounterVec
	errors    *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	label := []string{"reconciler"}
	histogram := func(name, help string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "lockstep_reconciler_" + name, Help: help,
			// 50 µs, a cheap decision, to 26 s, etcd at its worst.
			Buckets: prometheus.ExponentialBuckets(50e-6, 4, 10),
		}, label)
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "lockstep_reconciler_" + name, Help: help}, append(label, labels...))
	}
	m := &metrics{
		depth:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "lockstep_reconciler_queue_depth", Help: "Keys that wait for a worker."}),
		latency:   histogram("queue_seconds", "How long keys waited for a worker."),
		deciding:  histogram("decide_seconds", "How long decisions took."),
		acting:    histogram("act_seconds", "How long carrying decisions out took."),
		decisions: counter("decisions_total", "Decisions, by result: nothing, written, conflict, refused, error, bug.", "result"),
		writes:    counter("writes_total", "Objects written, by operation: create, update, delete.", "operation"),
		errors:    counter("errors_total", "Failed turns, by policy: stalled, waiting, transient, bug.", "policy"),
	}
	if r != nil {
		r.MustRegister(m.depth, m.latency, m.deciding, m.acting, m.decisions, m.writes, m.errors)
	}
	return m
}
