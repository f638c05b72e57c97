package source

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	looks   *prometheus.CounterVec
	fetches *prometheus.CounterVec
	seconds *prometheus.HistogramVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		looks: register(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "lockstep_source_looks_total",
			Help: "Looks at a repository's references or a folder, by result."}, []string{"place", "result"})),
		fetches: register(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "lockstep_source_fetches_total",
			Help: "Fetches from a repository, by way (incremental, clone, shallow) and result."}, []string{"way", "result"})),
		seconds: register(r, prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "lockstep_source_seconds",
			Help: "Duration of listing references, fetching, walking a tree.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 9)}, []string{"step"})),
	}
	return m
}

// register returns the collector, or the equal one that is registered already; a nil registerer registers nothing.
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

func result(err error) string {
	if err != nil {
		return "error"
	}
	return "ok"
}
