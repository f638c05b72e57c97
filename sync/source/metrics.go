package source

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are those of all watchers together.
type Metrics struct {
	looks   *prometheus.CounterVec
	fetches *prometheus.CounterVec
	seconds *prometheus.HistogramVec
}

// NewMetrics makes and registers them. Nil: they are kept and not exported.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		looks: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "lockstep_source_looks_total",
			Help: "Looks at a repository's references or a folder, by result."}, []string{"place", "result"}),
		fetches: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "lockstep_source_fetches_total",
			Help: "Fetches from a repository, by way (incremental, clone, shallow) and result."}, []string{"way", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "lockstep_source_seconds",
			Help: "Duration of listing references, fetching, walking a tree.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 9)},
			[]string{"step"}),
	}
	if r != nil {
		r.MustRegister(m.looks, m.fetches, m.seconds)
	}
	return m
}

func (m *Metrics) took(step string, since time.Time) {
	m.seconds.WithLabelValues(step).Observe(time.Since(since).Seconds())
}

func result(err error) string {
	if err != nil {
		return "error"
	}
	return "ok"
}
