package store

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the store's Prometheus metrics.
type metrics struct {
	txnSeconds  prometheus.Histogram
	txnGroups   prometheus.Histogram
	txns        *prometheus.CounterVec
	groups      *prometheus.CounterVec
	pending     prometheus.Gauge
	revision    prometheus.Gauge
	healthy     prometheus.Gauge
	applied     prometheus.Counter
	applySecs   prometheus.Histogram
	loadSeconds prometheus.Histogram
	restarts    *prometheus.CounterVec
	broken      prometheus.Gauge
	unreadable  prometheus.Gauge
	overflows   *prometheus.CounterVec
	events      *prometheus.CounterVec
	leading     prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "lockstep", Subsystem: "store", Name: name, Help: help}
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts(opts(name, help)), labels)
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts(opts(name, help)))
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "lockstep", Subsystem: "store", Name: name, Help: help, Buckets: buckets,
		})
	}
	seconds := prometheus.ExponentialBuckets(0.0005, 2, 15) // 0.5 ms to 8 s
	m := &metrics{
		txnSeconds:  histogram("txn_seconds", "Time etcd took for a transaction.", seconds),
		txnGroups:   histogram("txn_groups", "Groups merged into a transaction.", []float64{1, 2, 4, 8, 16, 32, 64, 127}),
		txns:        counter("txns_total", "Transactions, by outcome.", "result"),
		groups:      counter("groups_total", "Groups of writes, by outcome.", "result"),
		pending:     gauge("pending_groups", "Groups waiting to be sent."),
		revision:    gauge("view_revision", "Revision of the newest view."),
		healthy:     gauge("healthy", "1 while reads and writes work."),
		applied:     prometheus.NewCounter(prometheus.CounterOpts(opts("changes_total", "Changes applied to the view."))),
		applySecs:   histogram("apply_seconds", "Time to decode and apply one batch of the watch.", seconds),
		loadSeconds: histogram("load_seconds", "Time of a full load.", prometheus.ExponentialBuckets(0.001, 4, 10)),
		restarts:    counter("watch_restarts_total", "Watches begun anew, by cause.", "cause"),
		broken:      gauge("broken_values", "Values in etcd that cannot be decoded and are left out of the view."),
		unreadable:  gauge("unreadable_values", "Values in etcd that are sealed and cannot be opened."),
		overflows:   counter("subscription_overflows_total", "Subscriptions cut off for being too slow.", "name"),
		events:      counter("events_total", "Kubernetes events recorded, by what became of them.", "result"),
		leading:     gauge("leading", "1 while this process leads."),
	}
	if reg != nil {
		reg.MustRegister(m.txnSeconds, m.txnGroups, m.txns, m.groups, m.pending, m.revision, m.healthy, m.applied,
			m.applySecs, m.loadSeconds, m.restarts, m.broken, m.unreadable, m.overflows, m.events, m.leading)
	}
	return m
}

func (m *metrics) txn(took time.Duration, groups int, err error) {
	m.txnSeconds.Observe(took.Seconds())
	m.txnGroups.Observe(float64(groups))
	outcome := "ok"
	if err != nil {
		outcome = outcomeOf(classify(err))
	}
	m.txns.WithLabelValues(outcome).Inc()
}

func (m *metrics) result(err error) { m.groups.WithLabelValues(outcomeOf(err)).Inc() }

func outcomeOf(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, ErrConflict):
		return "conflict"
	case errors.Is(err, ErrDeposed):
		return "deposed"
	case errors.Is(err, ErrTooLarge):
		return "too large"
	case errors.Is(err, ErrUnknown):
		return "unknown"
	case errors.Is(err, ErrUnavailable):
		return "unavailable"
	}
	return "cancelled"
}
