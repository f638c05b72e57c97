package probes

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"lockstep/internal/eventually"
)

// harness runs a manager, and collects what it says.
type harness struct {
	*Manager
	t       *testing.T
	changed chan struct{}

	mu       sync.Mutex
	messages []string
}

func newHarness(t *testing.T, options Options) *harness {
	t.Helper()
	others := goleak.IgnoreCurrent() // the servers that are asked
	h := &harness{t: t, changed: make(chan struct{}, 100)}
	options.Changed = func(types.UID) { h.changed <- struct{}{} }
	options.Warned = func(_ types.UID, container, message string) { options.Unhealthy("", container, message) }
	options.Unhealthy = func(_ types.UID, container, message string) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.messages = append(h.messages, container+": "+message)
	}
	h.Manager = New(options)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = h.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
		goleak.VerifyNone(t, others)
	})
	return h
}

func (h *harness) await(what string, holds func(Result) bool) (r Result) {
	h.t.Helper()
	eventually.Nil(h.t, 10*time.Second, what, func() error {
		if r = h.Results("uid")["c"]; !holds(r) {
			return fmt.Errorf("it is %+v", r)
		}
		return nil
	})
	return r
}

func (h *harness) said() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.messages, "\n")
}

func testPod(c corev1.Container) *corev1.Pod {
	c.Name = "c"
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "uid"}, Spec: corev1.PodSpec{Containers: []corev1.Container{c}}}
}

func running(id string) []Running { return []Running{{Name: "c", ID: id, StartedAt: time.Now()}} }

func probeOf(h corev1.ProbeHandler) *corev1.Probe {
	return &corev1.Probe{ProbeHandler: h, PeriodSeconds: 1, TimeoutSeconds: 1, SuccessThreshold: 1, FailureThreshold: 1}
}

// TestReadyLongBeforeItsPeriod has a server that listens a little after its container started.
func TestReadyLongBeforeItsPeriod(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().(*net.TCPAddr)
	l.Close()
	h := newHarness(t, Options{})
	p := probeOf(corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromString("web")}})
	p.PeriodSeconds, p.FailureThreshold = 3600, 3
	h.Set(testPod(corev1.Container{ReadinessProbe: p, Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: int32(address.Port)}}}),
		running("1"), "127.0.0.1")
	h.await("it was asked", func(Result) bool { return h.said() != "" })
	if l, err = net.Listen("tcp", address.String()); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r := h.await("it is ready", func(r Result) bool { return r.Ready })
	if !r.Started || r.ID != "1" || r.Failed != "" {
		t.Errorf("got %+v", r)
	}
	<-h.changed
	if got := h.said(); strings.Count(got, "\n") != 0 ||
		!strings.HasPrefix(got, "c: Readiness probe failed: dial tcp "+address.String()+": connect: connection refused") {
		t.Errorf("said %q", got)
	}
}

// agents is what the kubelet calls its probes: by its version, whatever the flags of the build.
var agents = regexp.MustCompile(`^kube-probe/1\.[0-9]+( grpc-go/.*)?$`)

// TestKinds asks over each protocol, with an answer that changes.
func TestKinds(t *testing.T) {
	var healthy atomic.Bool
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/away":
			http.Redirect(w, r, "/healthz?x", http.StatusFound)
		case r.Host != "shop.test" || r.Header.Get("X-Test") != "yes" || !agents.MatchString(r.UserAgent()):
			http.Error(w, "wrong request", http.StatusTeapot)
		case !healthy.Load():
			http.Error(w, "not yet", http.StatusServiceUnavailable)
		}
	})
	plain, secure := httptest.NewServer(answer), httptest.NewTLSServer(answer)
	defer plain.Close()
	defer secure.Close()
	server := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo,
		handle grpc.UnaryHandler) (any, error) {
		if md, _ := metadata.FromIncomingContext(ctx); !agents.MatchString(strings.Join(md["user-agent"], " ")) {
			t.Errorf("asked by %q", md["user-agent"])
		}
		return handle(ctx, req)
	}))
	service := health.NewServer()
	healthpb.RegisterHealthServer(server, service)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	defer serving.Wait()
	defer server.Stop()
	port := func(a net.Addr) int32 { return int32(a.(*net.TCPAddr).Port) }
	headers := []corev1.HTTPHeader{{Name: "Host", Value: "shop.test"}, {Name: "X-Test", Value: "yes"}}
	for name, handler := range map[string]corev1.ProbeHandler{
		"http": {HTTPGet: &corev1.HTTPGetAction{
			Path:        "/healthz?a=b",
			Port:        intstr.FromInt32(port(plain.Listener.Addr())),
			HTTPHeaders: headers,
		}},
		"redirect": {HTTPGet: &corev1.HTTPGetAction{
			Path:        "/away",
			Port:        intstr.FromInt32(port(plain.Listener.Addr())),
			HTTPHeaders: headers,
		}},
		"https": {HTTPGet: &corev1.HTTPGetAction{
			Scheme:      corev1.URISchemeHTTPS,
			Path:        "/",
			Port:        intstr.FromInt32(port(secure.Listener.Addr())),
			HTTPHeaders: headers,
		}},
		"grpc": {GRPC: &corev1.GRPCAction{Port: port(l.Addr()), Service: new("shop")}},
		"exec": {Exec: &corev1.ExecAction{Command: []string{"check", "$(LEVEL)"}}},
	} {
		t.Run(name, func(t *testing.T) {
			healthy.Store(false)
			service.SetServingStatus("shop", healthpb.HealthCheckResponse_NOT_SERVING)
			h := newHarness(t, Options{Exec: func(_ context.Context, id string, command []string, _ func()) (int, string, error) {
				if id != "1" || strings.Join(command, " ") != "check 7" {
					return 99, "wrong command", nil
				}
				if !healthy.Load() {
					return 1, "not yet", nil
				}
				return 0, "", nil
			}})
			h.Set(testPod(corev1.Container{ReadinessProbe: probeOf(handler), Env: []corev1.EnvVar{{Name: "LEVEL", Value: "7"}}}),
				running("1"), "127.0.0.1")
			h.await("it failed", func(Result) bool { return h.said() != "" })
			want := map[string]string{
				"exec": "c: Readiness probe failed: not yet",
				"grpc": `c: Readiness probe failed: service unhealthy (responded with "NOT_SERVING")`,
			}[name]
			if want == "" {
				want = "c: Readiness probe failed: HTTP probe failed with statuscode: 503"
			}
			if got, _, _ := strings.Cut(h.said(), "\n"); got != want {
				t.Errorf("said %q, want %q", got, want)
			}
			healthy.Store(true)
			service.SetServingStatus("shop", healthpb.HealthCheckResponse_SERVING)
			h.await("it is ready", func(r Result) bool { return r.Ready })
		})
	}
}

// TestTargetsAreHostile: what a probe's target says is bounded where it is taken, and a probe adds no lines to a request.
func TestTargetsAreHostile(t *testing.T) {
	var asked sync.Map
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Store(fmt.Sprintf("%s %s %s", r.Host, r.Header.Get("X-Test"), r.Header.Get("X-Injected")), true)
		switch r.URL.Path {
		case "/endless":
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		case "/silent":
			<-r.Context().Done()
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/away":
			http.Redirect(w, r, "http://"+strings.Repeat("a", 500_000)+".invalid/", http.StatusFound)
		default:
			w.Header().Set("Location", "http://127.0.0.1:1/"+strings.Repeat("a", 500_000))
			w.WriteHeader(http.StatusFound)
		}
	}))
	defer server.Close()
	rpc := grpc.NewServer(grpc.UnaryInterceptor(func(context.Context, any, *grpc.UnaryServerInfo, grpc.UnaryHandler) (any, error) {
		return nil, status.Error(codes.Unimplemented, strings.Repeat("a", 500_000))
	}))
	healthpb.RegisterHealthServer(rpc, health.NewServer())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = rpc.Serve(l) })
	defer serving.Wait()
	defer rpc.Stop()
	port := intstr.FromInt32(int32(server.Listener.Addr().(*net.TCPAddr).Port))
	get := func(path string, headers ...corev1.HTTPHeader) corev1.ProbeHandler {
		return corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: port, HTTPHeaders: headers}}
	}
	for name, c := range map[string]struct {
		handler corev1.ProbeHandler
		want    string // empty: it is ready
	}{
		"a body without end": {get("/endless"), ""},
		"no answer":          {get("/silent"), "Client.Timeout exceeded"},
		"a circle":           {get("/loop"), "stopped after 10 redirects"},
		"to a long address":  {get("/"), "connect: connection refused"},
		"to another host":    {get("/away"), ""},
		"a header with lines": {get("/endless", corev1.HTTPHeader{Name: "X-Test", Value: "x\r\nX-Injected: yes"}),
			"invalid header field value"},
		"a host with lines": {get("/endless", corev1.HTTPHeader{Name: "Host", Value: "x\r\nX-Injected: yes"}),
			"invalid header field value"},
		"a path with lines": {get("/endless\r\nX-Injected: yes"), "connect: connection refused"},
		"a long status": {corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: int32(l.Addr().(*net.TCPAddr).Port)}},
			"does not implement the grpc health protocol"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, Options{})
			h.Set(testPod(corev1.Container{ReadinessProbe: probeOf(c.handler)}), running("1"), "127.0.0.1")
			if c.want == "" {
				h.await("it is ready", func(r Result) bool { return r.Ready })
				return
			}
			h.await("it failed", func(Result) bool { return h.said() != "" })
			said, _, _ := strings.Cut(h.said(), "\n")
			if !strings.Contains(h.said(), c.want) && len(said) < maxOutput {
				t.Errorf("said %q, want %q", said, c.want)
			}
			if len(said) > maxOutput+100 {
				t.Errorf("said %d bytes", len(said))
			}
		})
	}
	asked.Range(func(k, _ any) bool {
		if strings.Contains(k.(string), "yes") {
			t.Errorf("asked with %q", k)
		}
		return true
	})
}

// TestLife follows a container from its start to its death, and its successor.
func TestLife(t *testing.T) {
	var started, alive atomic.Bool
	alive.Store(true)
	var asked sync.Map
	h := newHarness(t, Options{Exec: func(ctx context.Context, id string, command []string, began func()) (int, string, error) {
		asked.Store(command[0], true)
		switch {
		case command[0] == "start" && !started.Load():
			return 0, "", errors.New("no such container") // neither a success nor a failure
		case command[0] == "live" && !alive.Load():
			began()
			<-ctx.Done()
			return -1, "", ctx.Err()
		}
		return 0, "", nil
	}})
	command := func(name string) *corev1.Probe {
		return probeOf(corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{name}}})
	}
	object := testPod(corev1.Container{StartupProbe: command("start"), ReadinessProbe: command("ready"), LivenessProbe: command("live")})
	h.Set(object, running("1"), "127.0.0.1")
	h.await("it was asked", func(Result) bool { return h.said() != "" })
	if got := h.said(); got != "c: Startup probe errored and resulted in unknown state: no such container" {
		t.Errorf("said %q", got)
	}
	if r := h.Results("uid")["c"]; r.Started || r.Ready || r.Failed != "" {
		t.Errorf("before it started: %+v", r)
	}
	if _, early := asked.Load("ready"); early {
		t.Error("asked for readiness before it started")
	}
	started.Store(true)
	h.await("it is ready", func(r Result) bool { return r.Started && r.Ready })
	alive.Store(false)
	r := h.await("it is dead", func(r Result) bool { return r.Failed != "" })
	if r.Failed != Liveness || r.Message != `Liveness probe failed: command timed out: ["live"] timed out after 1s` {
		t.Errorf("got %+v", r)
	}
	h.Set(object, running("2"), "127.0.0.1")
	if r := h.Results("uid")["c"]; r.ID != "2" || r.Started || r.Ready || r.Failed != "" {
		t.Errorf("its successor: %+v", r)
	}
	ending := object.DeepCopy()
	ending.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	h.Set(ending, running("2"), "127.0.0.1")
	if r := h.Results("uid")["c"]; r.Failed != "" || !r.Started {
		t.Errorf("while it ends: %+v", r)
	}
	h.Remove("uid")
	if h.Results("uid") != nil {
		t.Error("it is still known")
	}
}

// TestAgentRestarted finds a ready container: it stays so until a probe says otherwise.
func TestAgentRestarted(t *testing.T) {
	release := make(chan struct{})
	h := newHarness(t, Options{Exec: func(ctx context.Context, _ string, command []string, _ func()) (int, string, error) {
		select {
		case <-release:
		case <-ctx.Done():
		}
		return 1, "no", nil
	}})
	command := probeOf(corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}})
	h.Set(testPod(corev1.Container{StartupProbe: command, ReadinessProbe: command}),
		[]Running{{Name: "c", ID: "1", StartedAt: time.Now().Add(-time.Hour), Started: true, Ready: true}}, "127.0.0.1")
	if r := h.Results("uid")["c"]; !r.Started || !r.Ready {
		t.Errorf("got %+v", r)
	}
	close(release)
	h.await("it is not ready", func(r Result) bool { return r.Started && !r.Ready })
}

// TestCounts holds the metrics of probes, which go with their pod.
func TestCounts(t *testing.T) {
	c := newCounts()
	one := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web", UID: "1"}}
	other := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "db", UID: "2"}}
	for _, result := range []string{"success", "success", "failure", "error"} {
		c.note(one, "main", Liveness, result, time.Second)
	}
	c.note(other, "main", Readiness, "success", time.Second)
	shown := func() (total string, durations int) {
		w := httptest.NewRecorder()
		promhttp.HandlerFor(c.registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics/probes", nil))
		for line := range strings.Lines(w.Body.String()) {
			if strings.HasPrefix(line, "prober_probe_total{") {
				total += line
			}
		}
		return total, strings.Count(w.Body.String(), "prober_probe_duration_seconds_count{")
	}
	want := `prober_probe_total{container="main",namespace="a",pod="db",pod_uid="2",probe_type="Readiness",result="successful"} 1
`
	ones := `prober_probe_total{container="main",namespace="a",pod="web",pod_uid="1",probe_type="Liveness",result="failed"} 1
prober_probe_total{container="main",namespace="a",pod="web",pod_uid="1",probe_type="Liveness",result="successful"} 2
prober_probe_total{container="main",namespace="a",pod="web",pod_uid="1",probe_type="Liveness",result="unknown"} 1
`
	if total, durations := shown(); total != want+ones || durations != 2 {
		t.Errorf("%d durations and\n%s", durations, total)
	}
	c.forget(one)
	if total, durations := shown(); total != want || durations != 1 {
		t.Errorf("of one that is gone: %d durations and\n%s", durations, total)
	}
	c.forget(one)
}

func TestNoProbes(t *testing.T) {
	h := newHarness(t, Options{})
	h.Set(testPod(corev1.Container{}), running("1"), "127.0.0.1")
	if r := h.Results("uid")["c"]; !r.Started || !r.Ready {
		t.Errorf("got %+v", r)
	}
	if len(h.Results("other")) != 0 {
		t.Error("results of a pod that is not there")
	}
}

// TestElsewhere: a redirect to another host is a success with a warning.
func TestElsewhere(t *testing.T) {
	server := httptest.NewServer(http.RedirectHandler("http://elsewhere.test/", http.StatusFound))
	defer server.Close()
	h := newHarness(t, Options{})
	h.Set(testPod(corev1.Container{ReadinessProbe: probeOf(corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
		Port: intstr.FromInt32(int32(server.Listener.Addr().(*net.TCPAddr).Port))}})}), running("1"), "127.0.0.1")
	h.await("it is ready", func(r Result) bool { return r.Ready })
	h.await("it is told of", func(Result) bool { return h.said() != "" })
	if got, want := h.said(), "c: Readiness probe warning: Probe terminated redirects, Response body: "; !strings.HasPrefix(got, want) {
		t.Errorf("said %q, want %q", got, want)
	}
}

// TestNobodyWaits: probes that never answer hold up neither another pod's nor the end, and end with their container.
func TestNobodyWaits(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	port := silent.Addr().(*net.TCPAddr).Port
	var asked atomic.Int64
	h := newHarness(t, Options{Exec: func(ctx context.Context, id string, _ []string, _ func()) (int, string, error) {
		if id == "1" {
			return 0, "", nil
		}
		asked.Add(1)
		defer asked.Add(-1)
		<-ctx.Done()
		return 0, "", ctx.Err()
	}})
	command := corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}}
	hog := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "hog"}}
	var hogs []Running
	for i := range 200 {
		handler := command
		switch i % 3 {
		case 1:
			handler = corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(int32(port))}}
		case 2:
			handler = corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: int32(port)}}
		}
		p := probeOf(handler)
		p.TimeoutSeconds = 3600
		c := corev1.Container{Name: fmt.Sprintf("c%d", i), ReadinessProbe: p}
		hog.Spec.Containers = append(hog.Spec.Containers, c)
		hogs = append(hogs, Running{Name: c.Name, ID: "hog", StartedAt: time.Now()})
	}
	h.Set(hog, hogs, "127.0.0.1")
	h.await("the hog asks", func(Result) bool { return asked.Load() > 0 })
	h.Set(testPod(corev1.Container{ReadinessProbe: probeOf(command)}), running("1"), "127.0.0.1")
	h.await("it is ready", func(r Result) bool { return r.Ready })
	if n := asked.Load(); n > maxRunning {
		t.Errorf("%d attempts of one pod at a time", n)
	}
	h.Set(hog, nil, "127.0.0.1")
	h.await("attempts ended with their containers", func(Result) bool { return asked.Load() == 0 })
	h.Set(hog, hogs, "127.0.0.1")
	h.await("the hog asks again", func(Result) bool { return asked.Load() > 0 })
	// The harness ends while they hang.
}
