package api

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// fakeAgents answers for node n1 with the requests that reach it.
type fakeAgents struct{ handler http.HandlerFunc }

// Transport implements Tunnels.
func (f fakeAgents) Transport(node string) http.RoundTripper {
	if node != "n1" {
		return nil
	}
	return f
}

// Accept implements Tunnels.
func (f fakeAgents) Accept(w http.ResponseWriter, _ *http.Request, node string) {
	fmt.Fprint(w, "tunnel of ", node)
}

// RoundTrip implements http.RoundTripper.
func (f fakeAgents) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	f.handler(w, r)
	return w.Result(), nil
}

func TestPodLog(t *testing.T) {
	agents := fakeAgents{func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("previous") == "true" {
			http.Error(w, `previous terminated container "main" in pod "cart-1-a" not found`, http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, "%s %s", r.Host, r.URL.RequestURI())
	}}
	two := testPod("shop", "two", "n1")
	two.Spec.Containers = append(two.Spec.Containers, corev1.Container{Name: "side", Image: "x"})
	s := newTestServer(t, agents, append(testCluster(), two, testPod("shop", "unbound", ""))...)
	c := client(t, s.viewer())
	lines, seconds, limit := int64(5), int64(60), int64(1000)
	for _, test := range []struct {
		name string
		pod  string
		opts corev1.PodLogOptions
		want string // of the answer, or of the error
	}{
		{"defaults", "cart-1-a", corev1.PodLogOptions{}, "n1:80 /containerLogs/shop/cart-1-a/main"},
		{"options", "cart-1-a", corev1.PodLogOptions{
			Container: "main", Follow: true, TailLines: &lines, SinceSeconds: &seconds, Timestamps: true, LimitBytes: &limit,
		}, "follow=true&limitBytes=1000&sinceSeconds=60"},
		{"previous", "cart-1-a", corev1.PodLogOptions{Previous: true}, `previous terminated container "main" in pod "cart-1-a" not found`},
		{"which container", "two", corev1.PodLogOptions{}, "a container name must be specified for pod two, choose one of: [main side]"},
		{"no such container", "cart-1-a", corev1.PodLogOptions{Container: "nope"}, "container nope is not valid for pod cart-1-a"},
		{"no such pod", "nobody", corev1.PodLogOptions{}, `pods "nobody" not found`},
		{"no tunnel", "cart-1-b", corev1.PodLogOptions{}, "the agent of node n2 has no connection to this server"},
		{"not bound", "unbound", corev1.PodLogOptions{}, ""},
		{"invalid", "cart-1-a", corev1.PodLogOptions{TailLines: func() *int64 { n := int64(-1); return &n }()},
			"must be greater than or equal to 0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got string
			stream, err := c.CoreV1().Pods("shop").GetLogs(test.pod, &test.opts).Stream(t.Context())
			if err == nil {
				data, readErr := io.ReadAll(stream)
				if readErr != nil {
					t.Fatal(readErr)
				}
				got = string(data)
			} else if status, ok := err.(apierrors.APIStatus); ok {
				got = status.Status().Message
			}
			if !strings.Contains(got, test.want) {
				t.Errorf("got %q, %v; want %q", got, err, test.want)
			}
		})
	}
	for _, path := range []string{"stats/summary", "metrics", "metrics/cadvisor", "metrics/resource", "metrics/probes", "healthz"} {
		if code, body := s.ask(s.viewer(), "GET", "/api/v1/nodes/n1/proxy/"+path, ""); code != 200 || body != "n1 /"+path {
			t.Errorf("%s: %d %q", path, code, body)
		}
	}
	for _, method := range []string{"GET", "POST"} { // what only the control plane asks of agents
		if code, body := s.ask(s.viewer(), method, "/api/v1/nodes/n1/proxy/csi/disks.example.com", ""); code < 400 {
			t.Errorf("%s of a CSI controller: %d %q", method, code, body)
		}
	}
	if code, body := s.ask(s.node("n1"), "GET", "/lockstep/v1/tunnel", ""); code != 200 || body != "tunnel of n1" {
		t.Errorf("tunnel: %d %q", code, body)
	}
}
