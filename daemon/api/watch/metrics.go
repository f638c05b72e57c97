package watch

import "github.com/prometheus/client_golang/prometheus"

// metrics of the watches.
type metrics struct {
	watchers *prometheus.GaugeVec
	events   *prometheus.CounterVec
	expired  prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		watchers: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "lockstep_api_watchers", Help: "Watches under way.",
		}, []string{"resource"}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lockstep_api_watch_events_total", Help: "Events sent to watchers.",
		}, []string{"resource"}),
		expired: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "lockstep_api_watches_expired_total", Help: "Watches that were told to list again.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.watchers, m.events, m.expired)
	}
	return m
}
