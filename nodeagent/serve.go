package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/nodeagent/logs"
	"lockstep/nodeagent/network"
	"lockstep/nodeagent/pods"
	"lockstep/nodeagent/stats"
)

// handler answers what API servers ask over the tunnel: container logs,
// statistics, metrics and health.
func (a *Agent) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /stats/summary", a.summary)
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.opts.Metrics, promhttp.HandlerOpts{}))
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
	i, ok := p.logged(name, opts.Previous)
	if !ok {
		text := fmt.Sprintf("container %q in pod %q is waiting to start", name, r.PathValue("pod"))
		if opts.Previous {
			text = fmt.Sprintf("previous terminated container %q in pod %q not found", name, r.PathValue("pod"))
		}
		http.Error(w, text, http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	ended := func() bool { return p.ended(i.ID) }
	if !opts.Follow {
		ended = nil
	}
	err = logs.Read(r.Context(), logs.Path(p.logDir(), name, i.Attempt), opts, flusher(w), ended)
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

func (a *Agent) podNamed(namespace, name string) *pod {
	var found *pod
	for _, p := range a.allPods() {
		o := p.object()
		if o.Namespace == namespace && o.Name == name && (found == nil || !p.asked().Refused()) {
			found = p
		}
	}
	return found
}

// logged is the instance whose log is asked for.
func (p *pod) logged(name string, previous bool) (pods.Container, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var last, before *instance
	for _, i := range p.instances {
		switch {
		case i.Name != name:
		case last == nil || i.Attempt > last.Attempt:
			last, before = i, last
		case before == nil || i.Attempt > before.Attempt:
			before = i
		}
	}
	// While it waits for its restart, both words mean the instance that ended last.
	waits := slices.ContainsFunc(slices.Concat(p.status.InitContainerStatuses, p.status.ContainerStatuses),
		func(s corev1.ContainerStatus) bool { return s.Name == name && s.State.Waiting != nil })
	if previous && !waits {
		last = before
	}
	if last == nil || last.State == pods.Created {
		return pods.Container{}, false
	}
	return last.Container, true
}

// ended says that nothing more will be written to the container's log.
func (p *pod) ended(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := p.instances[id]
	return i == nil || i.State == pods.Exited && i.released
}

// lastLines is the end of an instance's log, for its termination message.
func (p *pod) lastLines(ctx context.Context, i *instance) string {
	var b strings.Builder
	lines := int64(fallbackLines)
	if err := logs.Read(ctx, logs.Path(p.logDir(), i.Name, i.Attempt), &corev1.PodLogOptions{TailLines: &lines}, &b, nil); err != nil {
		return ""
	}
	text := b.String()
	if len(text) > fallbackBytes {
		text = text[len(text)-fallbackBytes:]
	}
	return text
}

// removeLog removes the files of an old instance's log, rotated ones included.
func (p *pod) removeLog(name string, attempt int) {
	if err := logs.Remove(logs.Path(p.logDir(), name, attempt)); err != nil {
		p.log.Warn("cannot remove log", "error", err)
	}
}

// measured are the pods whose use is measured.
func (a *Agent) measured() []stats.Pod {
	var out []stats.Pod
	for _, p := range a.allPods() {
		p.mu.Lock()
		o := p.wanted.Pod
		s := stats.Pod{Namespace: o.Namespace, Name: o.Name, UID: o.UID, Cgroup: a.podCgroup(o.UID), Volumes: map[string]string{}}
		if p.status.StartTime != nil {
			s.StartTime = p.status.StartTime.Time
		}
		if !o.Spec.HostNetwork && p.sandbox.ID != "" {
			s.NetNS = network.NetPath(filepath.Join(a.opts.podRunDir(string(o.UID)), "ns"))
		}
		for _, v := range o.Spec.Volumes {
			if m, ok := p.volumes[v.Name]; ok && v.EmptyDir != nil {
				s.Volumes[v.Name] = m.HostPath
			}
		}
		for _, i := range p.instances {
			if i.State == pods.Running {
				s.Containers = append(s.Containers, stats.Container{Name: i.Name, ID: i.ID, StartTime: i.StartedAt,
					Cgroup: filepath.Join(s.Cgroup, i.ID), LogDir: filepath.Join(logs.Dir(a.opts.LogDir, o.Namespace, o.Name, o.UID), i.Name)})
			}
		}
		running := p.sandbox.ID != ""
		p.mu.Unlock()
		if running {
			out = append(out, s)
		}
	}
	return out
}
