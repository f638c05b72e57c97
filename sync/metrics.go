package sync

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"lockstep/sync/plan"
)

type metrics struct {
	revisions *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	steps     *prometheus.CounterVec
	drift     *prometheus.CounterVec
	errors    *prometheus.CounterVec
	objects   *prometheus.GaugeVec
	hooks     *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	return &metrics{
		revisions: register(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "lockstep_sync_revisions_total",
			Help: "Revisions seen, by what became of them: accepted, refused, held."}, []string{"source", "result"})),
		seconds: register(r, prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "lockstep_sync_seconds",
			Help: "Duration of reading manifests, planning, accepting, converging, judging.", Buckets: prometheus.ExponentialBuckets(0.0005, 4, 10)}, []string{"step"})),
		steps: register(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "lockstep_sync_steps_total",
			Help: "Steps carried out, by verb."}, []string{"source", "verb"})),
		drift: register(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "lockstep_sync_drift_total",
			Help: "Objects that were changed or deleted by hand and repaired."}, []string{"source"})),
		errors: register(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "lockstep_sync_errors_total",
			Help: "Passes that ended with an error and are tried again."}, []string{"source"})),
		objects: register(r, prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "lockstep_sync_objects",
			Help: "Objects of the accepted revision, all and healthy."}, []string{"source", "state"})),
		hooks: register(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "lockstep_sync_hooks_total",
			Help: "Webhooks received, by the answer's code."}, []string{"code"})),
	}
}

func register[C prometheus.Collector](r prometheus.Registerer, c C) C {
	if r == nil {
		return c
	}
	var already prometheus.AlreadyRegisteredError
	if err := r.Register(c); errors.As(err, &already) {
		if existing, ok := already.ExistingCollector.(C); ok {
			return existing
		}
	}
	return c
}

func (m *metrics) took(step string, since time.Time) {
	m.seconds.WithLabelValues(step).Observe(time.Since(since).Seconds())
}

func (m *metrics) did(source string, s plan.Step) {
	m.steps.WithLabelValues(source, string(s.Verb)).Inc()
	if s.Drift && s.Verb != plan.Keep {
		m.drift.WithLabelValues(source).Inc()
	}
}
