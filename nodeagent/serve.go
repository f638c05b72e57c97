package nodeagent

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/nodeagent/logs"
	"lockstep/nodeagent/pod"
	"lockstep/nodeagent/stats"
)

// handler answers what API servers ask over the tunnel: container logs,
// statistics, metrics and health.
func (a *Agent) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /stats/summary", a.summary)
	mux.HandleFunc("GET /usage/node", a.summary.NodeUsage)
	mux.HandleFunc("GET /usage/pods", a.summary.PodUsage)
	mux.HandleFunc("GET /metrics/cadvisor", a.summary.CAdvisor)
	mux.HandleFunc("GET /metrics/resource", a.summary.Resource)
	mux.Handle("GET /metrics/probes", promhttp.HandlerFor(a.probes.Metrics(), promhttp.HandlerOpts{}))
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.opts.Metrics, promhttp.HandlerOpts{}))
	mux.Handle("POST /csi/{driver}", a.csi)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", a.serveLogs)
	return promhttp.InstrumentHandlerInFlight(a.metrics.tunnels, mux)
}

func (a *Agent) serveLogs(w http.ResponseWriter, r *http.Request) {
	opts, err := logOptions(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	p, name := a.podNamed(r.PathValue("namespace"), r.PathValue("pod")), r.PathValue("container")
	if p == nil {
		http.Error(w, fmt.Sprintf("pod %q does not exist on this node", r.PathValue("pod")), http.StatusNotFound)
		return
	}
	i, ok := p.Logged(name, opts.Previous)
	if !ok {
		text := fmt.Sprintf("container %q in pod %q is waiting to start", name, r.PathValue("pod"))
		if opts.Previous {
			text = fmt.Sprintf("previous terminated container %q in pod %q not found", name, r.PathValue("pod"))
		}
		http.Error(w, text, http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	ended := func() bool { return p.Ended(i.ID) }
	if !opts.Follow {
		ended = nil
	}
	err = logs.Read(r.Context(), logs.Path(p.LogDir(), name, i.Attempt), opts, flusher(w), ended)
	if err == nil && !opts.Follow && opts.LimitBytes == nil {
		a.tellGaps(r.Context(), i.ID, w)
	}
	if err != nil && r.Context().Err() == nil {
		if logs.Missing(err) {
			http.Error(w, "the log does not exist", http.StatusNotFound)
			return
		}
		a.log.Warn("cannot read log", "container", i.ID, "error", err)
	}
}

// flusher sends what is written at once, for those who follow.
func flusher(w http.ResponseWriter) io.Writer {
	if f, ok := w.(http.Flusher); ok {
		return flushWriter{w, f}
	}
	return w
}

type flushWriter struct {
	io.Writer
	f http.Flusher
}

func (w flushWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	w.f.Flush()
	return n, err
}

// logOptions reads corev1.PodLogOptions from a query.
func logOptions(q url.Values) (*corev1.PodLogOptions, error) {
	o := &corev1.PodLogOptions{}
	var errs []error
	boolean := func(name string, to *bool) {
		if v := q.Get(name); v != "" {
			b, err := strconv.ParseBool(v)
			errs, *to = append(errs, err), b
		}
	}
	number := func(name string, to **int64) {
		if v := q.Get(name); v != "" {
			n, err := strconv.ParseInt(v, 10, 64)
			errs, *to = append(errs, err), &n
		}
	}
	boolean("follow", &o.Follow)
	boolean("previous", &o.Previous)
	boolean("timestamps", &o.Timestamps)
	number("sinceSeconds", &o.SinceSeconds)
	number("tailLines", &o.TailLines)
	number("limitBytes", &o.LimitBytes)
	if v := q.Get("sinceTime"); v != "" {
		t, err := time.Parse(time.RFC3339Nano, v)
		m := metav1.NewTime(t)
		errs, o.SinceTime = append(errs, err), &m
	}
	if v := q.Get("stream"); v != "" {
		o.Stream = &v
	}
	return o, errors.Join(errs...)
}

func (a *Agent) podNamed(namespace, name string) *pod.Pod {
	var found *pod.Pod
	for _, p := range a.allPods() {
		o := p.Object()
		if o.Namespace == namespace && o.Name == name && (found == nil || !p.Wanted().Refused()) {
			found = p
		}
	}
	return found
}

// measured are the pods whose use is measured.
func (a *Agent) measured() []stats.Pod {
	var out []stats.Pod
	for _, p := range a.allPods() {
		if m, ok := p.Measured(); ok {
			m.Outside = a.outside(p)
			out = append(out, m)
		}
	}
	return out
}
