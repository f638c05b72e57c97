package scheduler

import "github.com/prometheus/client_golang/prometheus"

// metrics are the scheduler's Prometheus metrics.
type metrics struct {
	pending                       prometheus.Gauge
	decide, latency               prometheus.Histogram
	bindings, refusals, conflicts prometheus.Counter
	victims                       prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "lockstep", Subsystem: "scheduler", Name: name, Help: help})
	}
	m := &metrics{
		pending: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "lockstep", Subsystem: "scheduler", Name: "pending_pods", Help: "Pods that wait for a node.",
		}),
		decide: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "lockstep", Subsystem: "scheduler", Name: "decide_seconds", Help: "Time of one decision over all its pods.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9), // 0.1 ms to 6.5 s
		}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "lockstep", Subsystem: "scheduler", Name: "bind_seconds", Help: "Time from a pod's creation to its binding.",
			Buckets: prometheus.ExponentialBuckets(0.01, 4, 9), // 10 ms to 11 min
		}),
		bindings:  counter("bindings_total", "Pods bound."),
		refusals:  counter("refusals_total", "Decisions that no node takes a pod."),
		victims:   counter("preemption_victims_total", "Pods ended to make room for others."),
		conflicts: counter("conflicts_total", "Writes that met a changed pod; it is decided again."),
	}
	if reg != nil {
		reg.MustRegister(m.pending, m.decide, m.latency, m.bindings, m.refusals, m.victims, m.conflicts)
	}
	return m
}
