package proxy

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"lockstep/proxy/rules"
)

// metrics of one proxy.
type metrics struct {
	sizes map[rules.Family]size // as of the last synchronisation

	syncs, reads, link      prometheus.Histogram
	chains, rules, lastSync prometheus.Gauge
	repairs, errors, flows  prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	histogram := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "lockstep", Subsystem: "proxy", Name: name, Help: help,
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 15), // 1 ms to 16 s
		})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "lockstep", Subsystem: "proxy", Name: name, Help: help})
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "lockstep", Subsystem: "proxy", Name: name, Help: help})
	}
	m := &metrics{
		sizes:    map[rules.Family]size{},
		syncs:    histogram("sync_seconds", "Time from the start of a synchronisation to the rules being in the kernel."),
		reads:    histogram("read_seconds", "Time to read all rules back, which is done when somebody else wrote."),
		link:     histogram("link_seconds", "Time to check the service link."),
		chains:   gauge("chains", "Chains in the kernel that are the proxy's."),
		rules:    gauge("rules", "Rules in the kernel that are the proxy's."),
		lastSync: gauge("last_sync_timestamp_seconds", "When the rules were last synchronised."),
		repairs:  counter("repairs_total", "Repairs of what somebody else changed."),
		errors:   counter("errors_total", "Failed synchronisations."),
		flows:    counter("stale_flows_total", "Remembered UDP flows that were deleted because their endpoint is gone."),
	}
	if r != nil {
		r.MustRegister(m.syncs, m.reads, m.link, m.chains, m.rules, m.lastSync, m.repairs, m.errors, m.flows)
	}
	return m
}

// size is how much of a family is in the kernel.
type size struct{ chains, rules int }

func (m *metrics) synced(took time.Duration, family rules.Family, set *rules.Ruleset) {
	m.sizes[family] = size{len(set.Chains), set.Count()}
	var sum size
	for _, s := range m.sizes {
		sum.chains += s.chains
		sum.rules += s.rules
	}
	m.syncs.Observe(took.Seconds())
	m.chains.Set(float64(sum.chains))
	m.rules.Set(float64(sum.rules))
	m.lastSync.SetToCurrentTime()
}
