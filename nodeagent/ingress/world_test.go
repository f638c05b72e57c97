package ingress

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"lockstep/internal/eventually"
	"lockstep/internal/loopback"
	"lockstep/kinds/ingress"
	"lockstep/nodeagent/ingress/routes"
)

// secrets are a cluster's.
type secrets struct {
	mu       sync.Mutex
	have     map[string]*corev1.Secret
	revision int
	followed map[string]bool
}

func (s *secrets) Follow(_ context.Context, names map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.followed = names
}

func (s *secrets) Secret(_ context.Context, namespace, name string) (*corev1.Secret, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if secret := s.have[namespace+"/"+name]; secret != nil {
		return secret, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name)
}

func (s *secrets) put(name string, data map[string][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision++
	s.have["shop/"+name] = &corev1.Secret{Data: data,
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, ResourceVersion: strconv.Itoa(s.revision)}}
}

// world is a cluster with a server that serves it.
type world struct {
	*testing.T
	*Server
	secrets *secrets
	wake    chan struct{}

	mu sync.Mutex
	in routes.Input
}

// newWorld serves until the test ends.
func newWorld(t *testing.T, change func(*Options)) *world {
	w := &world{T: t, wake: make(chan struct{}, 1), secrets: &secrets{have: map[string]*corev1.Secret{}}}
	local := netip.MustParseAddr("127.0.0.1")
	o := Options{Wake: w.wake, Secrets: w.secrets, HTTP: freePort(t), HTTPS: freePort(t), Addresses: []netip.Addr{local},
		Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(), State: func() routes.Input {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.in
		}}
	if change != nil {
		change(&o)
	}
	w.Server = New(o)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Server.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return w
}

func freePort(t *testing.T) uint16 { return loopback.Free(t).Port() }

func wait(t *testing.T, holds func() bool) {
	t.Helper()
	eventually.True(t, time.Minute, "it is as wanted", holds)
}

// set changes the cluster.
func (w *world) set(change func(in *routes.Input)) {
	w.mu.Lock()
	change(&w.in)
	w.mu.Unlock()
	nudge(w.wake)
}

// service has a service of that name with these endpoints, an address with a port each, in place of what it had.
func (w *world) service(name string, endpoints ...string) {
	w.set(func(in *routes.Input) {
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
			Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
		services, all := []*corev1.Service{s}, []*discoveryv1.EndpointSlice(nil)
		for _, other := range in.Services {
			if other.Name != name {
				services = append(services, other)
			}
		}
		for _, other := range in.Slices {
			if other.Labels[discoveryv1.LabelServiceName] != name {
				all = append(all, other)
			}
		}
		for i, at := range endpoints {
			addr := netip.MustParseAddrPort(strings.TrimPrefix(strings.TrimPrefix(at, "http://"), "https://"))
			port := int32(addr.Port())
			all = append(all, &discoveryv1.EndpointSlice{
				ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name + strconv.Itoa(i),
					Labels: map[string]string{discoveryv1.LabelServiceName: name}},
				Ports:     []discoveryv1.EndpointPort{{Port: &port}},
				Endpoints: []discoveryv1.Endpoint{{Addresses: []string{addr.Addr().String()}}}})
		}
		in.Services, in.Slices = services, all
	})
}

// ingress has an Ingress for a host, with ingress-nginx's annotations, in place of what was.
func (w *world) ingress(name, host string, annotations map[string]string, tls ...networkingv1.IngressTLS) {
	prefix := networkingv1.PathTypePrefix
	i := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Annotations: map[string]string{}}}
	for k, v := range annotations {
		i.Annotations[ingress.Prefix+k] = v
	}
	i.Spec.TLS = tls
	i.Spec.Rules = []networkingv1.IngressRule{{Host: host, IngressRuleValue: networkingv1.IngressRuleValue{
		HTTP: &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{{Path: "/", PathType: &prefix,
			Backend: networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: name,
				Port: networkingv1.ServiceBackendPort{Number: 80}}}}}}}}}
	if _, faults := ingress.Read(i); len(faults) > 0 {
		w.Fatal(faults)
	}
	w.set(func(in *routes.Input) {
		all := []*networkingv1.Ingress{i}
		for _, other := range in.Ingresses {
			if other.Name != name {
				all = append(all, other)
			}
		}
		in.Ingresses = all
	})
}

func (w *world) url(path string) string {
	return fmt.Sprintf("http://127.0.0.1:%d%s", w.opts.HTTP, path)
}

// client follows no redirects, and keeps no connections.
func (w *world) client(host string) *http.Client {
	return &http.Client{Timeout: 10 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: host}}}
}

type answer struct {
	code   int
	header http.Header
	body   string
}

// ask asks for a path of a host.
func (w *world) ask(method, host, path string, body io.Reader, header ...string) (answer, error) {
	r, err := http.NewRequest(method, w.url(path), body)
	if err != nil {
		w.Fatal(err)
	}
	r.Host = host
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	a, err := w.client(host).Do(r)
	if err != nil {
		return answer{}, err
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	return answer{a.StatusCode, a.Header, string(text)}, err
}

func (w *world) get(host, path string, header ...string) answer {
	w.Helper()
	a, err := w.ask(http.MethodGet, host, path, nil, header...)
	if err != nil {
		w.Fatal(err)
	}
	return a
}

// until waits for an answer of a code.
func (w *world) until(host, path string, code int) {
	w.Helper()
	wait(w.T, func() bool {
		a, err := w.ask(http.MethodGet, host, path, nil)
		return err == nil && a.code == code
	})
}

func backend(t *testing.T, h http.HandlerFunc) *httptest.Server {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

func named(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s", name, r.Host, r.URL.RequestURI())
	}
}
