package api

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/websocket"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"lockstep/daemon/pki"
	"lockstep/kinds"
)

// TestStatusAndScale reads the subresources that discovery lists.
func TestStatusAndScale(t *testing.T) {
	s := newTestServer(t, nil, testCluster()...)
	c := client(t, s.viewer())
	for _, k := range kinds.All {
		for o := range s.store.View().List(k.GroupResource(), "") {
			if !k.Status {
				continue
			}
			path := "/apis/" + k.GroupVersion().String()
			if k.Group == "" {
				path = "/api/v1"
			}
			if k.Namespaced {
				path += "/namespaces/" + o.GetNamespace()
			}
			path += "/" + k.Resource + "/" + o.GetName() + "/status"
			if code, body := s.ask(s.viewer(), "GET", path, ""); code != 200 || !strings.Contains(body, `"kind":"`+k.Kind+`"`) {
				t.Errorf("%s: %d %s", path, code, body)
			}
		}
	}
	deployment, err := c.AppsV1().Deployments("shop").GetScale(t.Context(), "cart", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if deployment.Spec.Replicas != 2 || deployment.Status.Replicas != 2 || deployment.Status.Selector != "app=cart" ||
		deployment.Kind != "Scale" && deployment.Kind != "" {
		t.Errorf("the deployment's scale is %+v", deployment)
	}
	if set, err := c.AppsV1().ReplicaSets("shop").GetScale(t.Context(), "cart-1", metav1.GetOptions{}); err != nil ||
		set.Spec.Replicas != 2 || set.UID == "" {
		t.Errorf("the replica set's scale is %+v, %v", set, err)
	}
	if _, err := c.AppsV1().Deployments("shop").GetScale(t.Context(), "none", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the scale of nothing: %v", err)
	}
	resources, err := c.Discovery().ServerResourcesForGroupVersion("apps/v1")
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, r := range resources.APIResources {
		found = found || r.Name == "deployments/scale" && r.Group == "autoscaling" && r.Version == "v1" && r.Kind == "Scale"
	}
	if !found {
		t.Error("discovery does not list deployments/scale")
	}
}

// TestWatchByPath watches in the way that Kubernetes had before ?watch=true, which some clients still know.
func TestWatchByPath(t *testing.T) {
	s := newTestServer(t, nil, configMap("a", "one", nil), configMap("a", "two", nil))
	rev := s.store.View().Revision()
	s.put(configMap("a", "one", nil), configMap("a", "two", nil))
	for path, want := range map[string]int{
		"namespaces/a/configmaps":     2,
		"namespaces/a/configmaps/two": 1,
		"configmaps":                  2,
		"namespaces/b/configmaps":     0,
	} {
		code, body := s.ask(s.viewer(), "GET", fmt.Sprintf("/api/v1/watch/%s?timeoutSeconds=1&resourceVersion=%d", path, rev), "")
		if got := strings.Count(body, `"type":"`+string(watch.Modified)+`"`); code != 200 || got != want {
			t.Errorf("%s: %d, %d events, want %d: %s", path, code, got, want, body)
		}
	}
}

func TestSubjectAccessReviews(t *testing.T) {
	s := newTestServer(t, nil, testCluster()...)
	c := client(t, s.viewer()).AuthorizationV1()
	list := &authorizationv1.ResourceAttributes{Namespace: "shop", Verb: "list", Resource: "configmaps"}
	for _, test := range []struct {
		name   string
		user   string
		groups []string
		asks   *authorizationv1.ResourceAttributes
		want   bool
	}{
		{"a viewer lists", "alice", []string{pki.ViewerGroup}, list, true},
		{"a viewer reads Secrets", "alice", []string{pki.ViewerGroup},
			&authorizationv1.ResourceAttributes{Namespace: "shop", Verb: "get", Resource: "secrets", Name: "cart-1-a"}, false},
		{"somebody lists", "system:serviceaccount:shop:default", []string{"system:authenticated"}, list, false},
		{"a node lists", pki.NodeUserPrefix + "n1", []string{pki.NodeGroup}, list, false},
		{"a node reads its pod's Secret", pki.NodeUserPrefix + "n1", []string{pki.NodeGroup},
			&authorizationv1.ResourceAttributes{Namespace: "shop", Verb: "get", Resource: "secrets", Name: "cart-1-a"}, true},
	} {
		spec := authorizationv1.SubjectAccessReviewSpec{User: test.user, Groups: test.groups, ResourceAttributes: test.asks}
		r, err := c.SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{Spec: spec}, metav1.CreateOptions{})
		if err != nil || r.Status.Allowed != test.want {
			t.Errorf("%s: %+v, %v; want %v", test.name, r.Status, err, test.want)
		}
		local, err := c.LocalSubjectAccessReviews("shop").Create(t.Context(), &authorizationv1.LocalSubjectAccessReview{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop"}, Spec: spec}, metav1.CreateOptions{})
		if err != nil || local.Status.Allowed != test.want {
			t.Errorf("%s, locally: %+v, %v; want %v", test.name, local.Status, err, test.want)
		}
	}
	if _, err := c.SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{},
		metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("an empty review: %v", err)
	}
	if _, err := c.LocalSubjectAccessReviews("other").Create(t.Context(), &authorizationv1.LocalSubjectAccessReview{
		ObjectMeta: metav1.ObjectMeta{Namespace: "other"},
		Spec:       authorizationv1.SubjectAccessReviewSpec{User: "alice", ResourceAttributes: list},
	}, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("a local review of another namespace: %v", err)
	}
	// A review is nothing that a table could show.
	err := c.RESTClient().Post().Resource("selfsubjectaccessreviews").SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").
		Body(&authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: "/", Verb: "get"}}}).Do(t.Context()).Into(&metav1.Table{})
	if status, ok := err.(apierrors.APIStatus); !ok || status.Status().Code != http.StatusNotAcceptable {
		t.Errorf("a review as a table: %v", err)
	}
	config := s.viewer()
	config.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:shop:default"}
	if _, err := client(t, config).CoreV1().ConfigMaps("shop").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a read as somebody else: %v", err)
	}
}

// TestPodLogOverWebsocket reads a log in messages, and goes away while it is followed: its stream ends.
func TestPodLogOverWebsocket(t *testing.T) {
	ended := make(chan struct{})
	s := newTestServer(t, fakeAgents{func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "container is alive\n") }},
		testCluster()...)
	open := func(query, protocol string) *websocket.Conn {
		t.Helper()
		config := s.viewer()
		secure, err := rest.TLSConfigFor(config)
		if err != nil {
			t.Fatal(err)
		}
		secure.NextProtos = nil // HTTP/2 has no websockets here
		location := &url.URL{Scheme: "wss", Host: s.address, Path: "/api/v1/namespaces/shop/pods/cart-1-a/log", RawQuery: query}
		c, err := websocket.DialConfig(&websocket.Config{Location: location, Origin: &url.URL{Scheme: "https", Host: s.address},
			Version: websocket.ProtocolVersionHybi13, Protocol: []string{protocol}, TlsConfig: secure})
		if err != nil {
			t.Fatalf("%s: %v", protocol, err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		return c
	}
	read := func(c *websocket.Conn) string {
		var out bytes.Buffer
		for {
			var message []byte
			if err := websocket.Message.Receive(c, &message); err != nil {
				return out.String()
			}
			out.Write(message)
		}
	}
	if got := read(open("", "binary.k8s.io")); got != "container is alive\n" {
		t.Errorf("binary: %q", got)
	}
	if got := read(open("", "base64.binary.k8s.io")); got != "Y29udGFpbmVyIGlzIGFsaXZlCg==" {
		t.Errorf("base64: %q", got)
	}
	s.server.opts.Tunnels = silentAgents{ended}
	open("follow=true", "binary.k8s.io").Close()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("a follow goes on after its client has gone")
	}
}

// silentAgents answer with a log that never says anything, and tell when nobody reads it any more.
type silentAgents struct{ ended chan struct{} }

// Transport implements Tunnels.
func (a silentAgents) Transport(string) http.RoundTripper { return a }

// Accept implements Tunnels.
func (silentAgents) Accept(http.ResponseWriter, *http.Request, string) {}

// RoundTrip implements http.RoundTripper.
func (a silentAgents) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: silence(a)}, nil
}

type silence struct{ ended chan struct{} }

func (s silence) Read([]byte) (int, error) {
	<-s.ended
	return 0, http.ErrBodyReadAfterClose
}

func (s silence) Close() error {
	select {
	case <-s.ended:
	default:
		close(s.ended)
	}
	return nil
}
