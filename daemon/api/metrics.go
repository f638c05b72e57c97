package api

import (
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"

	"lockstep/daemon/rights"
	"lockstep/kinds"
)

// metrics of the API server.
type metrics struct {
	requests    *prometheus.CounterVec
	seconds     *prometheus.HistogramVec
	longRunning prometheus.Gauge
	refused     prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lockstep_api_requests_total", Help: "Requests to the API that have ended.",
		}, []string{"verb", "resource", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "lockstep_api_request_seconds", Help: "How long requests took that are not watches or followed logs.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .5, 1, 5, 30},
		}, []string{"verb", "resource"}),
		longRunning: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "lockstep_api_long_running_requests", Help: "Watches, followed logs and tunnels under way.",
		}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "lockstep_api_refused_requests_total", Help: "Requests answered 429 because too many were under way.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.seconds, m.longRunning, m.refused)
	}
	return m
}

func (m *metrics) request(info *request.RequestInfo, status int, took time.Duration) {
	verb, resource := info.Verb, labelOf(info)
	if !slices.Contains(verbs, verb) {
		verb = "other"
	}
	m.requests.WithLabelValues(verb, resource, strconv.Itoa(status)).Inc()
	if verb != "watch" && info.Path != rights.TunnelPath && info.Subresource != "log" {
		m.seconds.WithLabelValues(verb, resource).Observe(took.Seconds())
	}
}

var verbs = []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "head", "post", "put"}

// labelOf names only what is served, so that no client can make new time series.
func labelOf(info *request.RequestInfo) string {
	switch {
	case !info.IsResourceRequest:
		return ""
	case kinds.ForResource(schema.GroupResource{Group: info.APIGroup, Resource: info.Resource}) == nil:
		return "other"
	default:
		return info.Resource
	}
}
