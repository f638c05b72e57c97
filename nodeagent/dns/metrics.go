package dns

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"lockstep/nodeagent/dns/names"
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName("lockstep", "dns", name), help, labels, nil)
}

var (
	descAnswers = desc("answers_total", "Answers by protocol, question type and result.", "protocol", "type", "rcode")
	descLatency = desc("answer_seconds", "Time to answer a question, with forwarding.")
	descForward = desc("forward_seconds", "Time that a forwarded question took.")
	descIndex   = desc("index_seconds", "Time to index the state.")
	descErrors  = desc("forward_errors_total", "Forwarded questions without an answer.")
)

// collector is a prometheus.Collector of what the process counts; without an answer of it there is no value.
type collector struct{ c *Client }

// Describe implements prometheus.Collector.
func (m collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descAnswers, descLatency, descForward, descIndex, descErrors} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (m collector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), statsTimeout)
	defer cancel()
	conn, err := m.c.opts.Process.Dial(ctx)
	if err != nil {
		return
	}
	defer conn.Close()
	reply, err := ask(ctx, conn, names.Request{Op: "stats"})
	if err != nil || reply.Stats == nil {
		return
	}
	s := reply.Stats
	for _, a := range s.Answers {
		out <- prometheus.MustNewConstMetric(descAnswers, prometheus.CounterValue, float64(a.Answers), a.Protocol, a.Type, a.Rcode)
	}
	out <- prometheus.MustNewConstMetric(descErrors, prometheus.CounterValue, float64(s.ForwardErrors))
	for d, h := range map[*prometheus.Desc]names.Histogram{descLatency: s.Latency, descForward: s.Forward, descIndex: s.Index} {
		buckets, n := map[float64]uint64{}, uint64(0)
		for i, bound := range names.Bounds {
			n += h.Counts[i]
			buckets[bound] = n
		}
		out <- prometheus.MustNewConstHistogram(d, n+h.Counts[len(names.Bounds)], h.Sum, buckets)
	}
}
