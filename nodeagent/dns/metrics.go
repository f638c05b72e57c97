package dns

import "github.com/prometheus/client_golang/prometheus"

// metrics of one server.
type metrics struct {
	answers                        *prometheus.CounterVec
	latency, forwardLatency, index prometheus.Histogram
	forwardErrors                  prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	histogram := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "lockstep", Subsystem: "dns", Name: name, Help: help,
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9), // 0.1 ms to 6.5 s
		})
	}
	m := &metrics{
		answers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "lockstep", Subsystem: "dns", Name: "answers_total", Help: "Answers by protocol, question type and result.",
		}, []string{"protocol", "type", "rcode"}),
		latency:        histogram("answer_seconds", "Time to answer a question, with forwarding."),
		forwardLatency: histogram("forward_seconds", "Time that a forwarded question took."),
		index:          histogram("index_seconds", "Time to index the state."),
		forwardErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "lockstep", Subsystem: "dns", Name: "forward_errors_total", Help: "Forwarded questions without an answer.",
		}),
	}
	if r != nil {
		r.MustRegister(m.answers, m.latency, m.forwardLatency, m.index, m.forwardErrors)
	}
	return m
}
