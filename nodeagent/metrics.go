package nodeagent

import "github.com/prometheus/client_golang/prometheus"

// metrics are the agent's own; proxy and DNS have theirs.
type metrics struct {
	steps, stepErrors *prometheus.CounterVec
	stepSeconds       *prometheus.HistogramVec
	drift             prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		steps:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: "lockstep_agent_steps_total", Help: "Steps begun for pods."}, []string{"step"}),
		stepErrors: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "lockstep_agent_step_errors_total", Help: "Steps that failed."}, []string{"step"}),
		stepSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "lockstep_agent_step_seconds", Help: "How long steps took.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 10)}, []string{"step"}),
		drift: prometheus.NewCounter(prometheus.CounterOpts{Name: "lockstep_agent_drift_total", Help: "Containers removed that nobody asked for."}),
	}
	if r != nil {
		r.MustRegister(m.steps, m.stepErrors, m.stepSeconds, m.drift)
	}
	return m
}
