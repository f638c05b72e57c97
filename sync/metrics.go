package sync

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"lockstep/sync/health"
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
	m := &metrics{
		revisions: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "lockstep_sync_revisions_total",
			Help: "Revisions seen, by what became of them: accepted, refused, held."}, []string{"source", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "lockstep_sync_seconds",
			Help:    "Duration of reading manifests, planning, accepting, converging, judging.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 10)}, []string{"step"}),
		steps: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "lockstep_sync_steps_total",
			Help: "Steps carried out, by verb."}, []string{"source", "verb"}),
		drift: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "lockstep_sync_drift_total",
			Help: "Objects that were changed or deleted by hand and repaired."}, []string{"source"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "lockstep_sync_errors_total",
			Help: "Passes that ended with an error and are tried again."}, []string{"source"}),
		objects: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "lockstep_sync_objects",
			Help: "Objects of the accepted revision, all and healthy."}, []string{"source", "state"}),
		hooks: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "lockstep_sync_hooks_total",
			Help: "Webhooks received, by the answer's code."}, []string{"code"}),
	}
	if r != nil {
		r.MustRegister(m.revisions, m.seconds, m.steps, m.drift, m.errors, m.objects, m.hooks)
	}
	return m
}

func (m *metrics) took(step string, since time.Time) {
	m.seconds.WithLabelValues(step).Observe(time.Since(since).Seconds())
}

// rolled keeps how many objects a source has, and how many are healthy.
func (m *metrics) rolled(source string, r health.Roll) {
	m.objects.WithLabelValues(source, "all").Set(float64(r.Total))
	m.objects.WithLabelValues(source, "healthy").Set(float64(r.Healthy))
}

// forget drops the metrics of a source that is gone.
func (m *metrics) forget(source string) {
	of := prometheus.Labels{"source": source}
	m.revisions.DeletePartialMatch(of)
	m.steps.DeletePartialMatch(of)
	m.drift.DeletePartialMatch(of)
	m.errors.DeletePartialMatch(of)
	m.objects.DeletePartialMatch(of)
}

func (m *metrics) did(source string, s plan.Step) {
	m.steps.WithLabelValues(source, string(s.Verb)).Inc()
	if s.Drift && s.Verb != plan.Keep {
		m.drift.WithLabelValues(source).Inc()
	}
}
