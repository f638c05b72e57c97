package ingress

import (
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	networkingv1 "k8s.io/api/networking/v1"

	"lockstep/kinds/ingress"
)

type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	active   prometheus.Gauge
	retries  prometheus.Counter
	compiled prometheus.Histogram

	mu    sync.Mutex
	known map[string]bool // Ingresses that may have values
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "lockstep_ingress_requests_total",
			Help: "Requests that were answered, by Ingress and code; without an Ingress: none fits."},
			[]string{"namespace", "ingress", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "lockstep_ingress_request_duration_seconds",
			Help: "How long requests took.", Buckets: prometheus.DefBuckets}, []string{"namespace", "ingress"}),
		active: prometheus.NewGauge(prometheus.GaugeOpts{Name: "lockstep_ingress_requests", Help: "Requests under way."}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{Name: "lockstep_ingress_retries_total",
			Help: "Times that another endpoint was asked because one could not be."}),
		compiled: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "lockstep_ingress_compile_duration_seconds",
			Help: "How long it took to apply a change.", Buckets: prometheus.ExponentialBuckets(0.0001, 4, 8)}),
		known: map[string]bool{},
	}
	r.MustRegister(m.requests, m.seconds, m.active, m.retries, m.compiled)
	return m
}

// keep forgets the values of Ingresses that are gone.
func (m *metrics) keep(all []*networkingv1.Ingress) {
	now := make(map[string]bool, len(all))
	for _, i := range all {
		now[ingress.Name(i)] = true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for name := range m.known {
		if !now[name] {
			namespace, short, _ := strings.Cut(name, "/")
			labels := prometheus.Labels{"namespace": namespace, "ingress": short}
			m.requests.DeletePartialMatch(labels)
			m.seconds.DeletePartialMatch(labels)
		}
	}
	m.known = now
}

// done counts and logs a request that has come to its end.
func (f *flight) done() {
	took := time.Since(f.began)
	name, service := "", ""
	if f.route != nil {
		name, service = f.route.Ingress, f.route.Backend.Service
	}
	namespace, short, _ := strings.Cut(name, "/")
	f.server.metrics.requests.WithLabelValues(namespace, short, strconv.Itoa(f.code)).Inc()
	f.server.metrics.seconds.WithLabelValues(namespace, short).Observe(took.Seconds())
	if f.server.access == nil {
		return
	}
	r := f.request
	attrs := []slog.Attr{
		slog.String("client", f.client.Addr().Unmap().String()), slog.String("method", r.Method), slog.String("host", r.Host),
		slog.String("path", r.URL.Path), slog.String("protocol", r.Proto), slog.Bool("tls", r.TLS != nil), slog.Int("code", f.code),
		slog.Int64("bytes", f.bytes), slog.Float64("seconds", took.Seconds()), slog.String("ingress", name),
		slog.String("service", service), slog.String("endpoint", f.endpoint), slog.String("userAgent", r.UserAgent()),
	}
	if f.err != nil {
		attrs = append(attrs, slog.String("error", f.err.Error()))
	}
	f.server.access.LogAttrs(r.Context(), slog.LevelInfo, "request", attrs...)
}

// openAccessLog returns what closes it. Without the file requests are served all the same.
func (s *Server) openAccessLog() (end func()) {
	if s.opts.AccessLog == "" {
		return func() {}
	}
	file, err := os.OpenFile(s.opts.AccessLog, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		s.opts.Log.Warn("cannot log requests", "error", err)
		return func() {}
	}
	s.access = slog.New(slog.NewJSONHandler(file, nil))
	return func() {
		if err := file.Close(); err != nil {
			s.opts.Log.Warn("cannot log all requests", "error", err)
		}
	}
}
