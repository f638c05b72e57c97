package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"lockstep/daemon/api/accounts"
	"lockstep/daemon/pki"
)

// TestRights asks for everything with every kind of identity, against a cluster where pod cart-1-a is bound to n1 and
// cart-1-b to n2, and compares the answers with testdata/rights.txt.
func TestRights(t *testing.T) {
	s := newTestServer(t, nil, testCluster()...)
	s.declareAll()
	token, err := pki.Tokens{Store: s.store, Commit: s.store}.Create(t.Context(), pki.TokenOptions{
		Usages: []string{pki.UsageView},
		User:   "bob",
	})
	if err != nil {
		t.Fatal(err)
	}
	joinOnly, err := pki.Tokens{Store: s.store, Commit: s.store}.Create(t.Context(), pki.TokenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.server.hub.Wait(t.Context(), s.store.View().Revision()); err != nil {
		t.Fatal(err)
	}
	serviceAccount := &corev1.ServiceAccount{ObjectMeta: named("shop", "default")}
	s.put(serviceAccount)
	account, err := s.server.accounts.Issue(t.Context(), accounts.Bound{Account: serviceAccount, Pod: testPod("shop", "cart-1-a", "n1")},
		[]string{s.server.accounts.Audience()}, 3600)
	if err != nil {
		t.Fatal(err)
	}
	bearer := func(token string) *rest.Config {
		return &rest.Config{
			Host:            "https://" + s.address,
			BearerToken:     token,
			TLSClientConfig: rest.TLSClientConfig{CAData: s.authority.PEM()},
		}
	}
	callers := []struct {
		name   string
		config *rest.Config
	}{
		{"anonymous", bearer("")},
		{"bad-token", bearer("abc.def")},
		{"join-token", bearer(joinOnly.Bearer())},
		{"viewer", s.viewer()},
		{"view-token", bearer(token.Bearer())},
		{"node-n2", s.node("n2")},
		{"node-n1", s.node("n1")},
		{"account", bearer(account)},
	}
	const status = `{"status":{"conditions":[{"type":"Ready","status":"True"}]}}`
	event := func(kind, name string) string {
		return fmt.Sprintf(`{"apiVersion":"v1","kind":"Event","metadata":{"generateName":"e-","namespace":"shop"},"reason":"R",`+
			`"type":"Normal","involvedObject":{"kind":%q,"namespace":"shop","name":%q}}`, kind, name)
	}
	lease := func(name string) string {
		return fmt.Sprintf(`{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":%q,"namespace":"kube-node-lease"},`+
			`"spec":{"holderIdentity":%q}}`, name, name)
	}
	requests := []struct{ method, path, body string }{
		{"GET", "/healthz", ""}, {"GET", "/livez", ""}, {"GET", "/readyz", ""}, {"GET", "/version", ""}, {"GET", "/metrics", ""},
		{"GET", settingsPath, ""},
		{"GET", "/api", ""}, {"GET", "/apis", ""}, {"GET", "/api/v1", ""}, {"GET", "/apis/apps/v1", ""}, {"GET", "/openapi/v2", ""},
		{"GET", "/openapi/v3", ""},
		{"GET", "/lockstep/v1/drift", ""}, {"POST", "/lockstep/v1/drift", "{}"},
		{"GET", "/lockstep/v1/tunnel", ""}, {"POST", "/lockstep/v1/renew", "{}"},
		{"GET", "/lockstep/v1/rebuild", ""}, {"POST", "/lockstep/v1/rebuild", "{}"}, {"POST", "/lockstep/v1/join", "{}"},
		{"GET", "/api/v1/nodes", ""}, {"GET", "/api/v1/nodes/n1", ""}, {"GET", "/api/v1/nodes/n1/status", ""},
		{"GET", "/api/v1/namespaces", ""}, {"GET", "/api/v1/services", ""}, {"GET", "/apis/discovery.k8s.io/v1/endpointslices", ""},
		{"GET", "/api/v1/pods", ""}, {"GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1", ""},
		{"GET", "/api/v1/namespaces/shop/pods/cart-1-a", ""}, {"GET", "/api/v1/namespaces/shop/pods/cart-1-b", ""},
		{"GET", "/api/v1/namespaces/shop/pods/cart-1-a/log", ""},
		{"GET", "/apis/metrics.k8s.io/v1/pods", ""}, {"GET", "/apis/metrics.k8s.io/v1beta1/nodes", ""},
		{"POST", "/apis/metrics.k8s.io/v1beta1/namespaces/shop/pods", `{"apiVersion":"metrics.k8s.io/v1beta1","kind":"PodMetrics"}`},
		{"GET", "/api/v1/nodes/n1/proxy/metrics/cadvisor", ""},
		{"GET", "/api/v1/nodes/n1/proxy/stats/summary", ""}, {"GET", "/api/v1/nodes/n1/proxy/run", ""},
		{"GET", "/api/v1/secrets", ""}, {"GET", "/api/v1/namespaces/shop/secrets", ""},
		{"GET", "/api/v1/namespaces/shop/secrets/cart-1-a", ""}, {"GET", "/api/v1/namespaces/shop/secrets/cart-1-b", ""},
		{"GET", "/api/v1/namespaces/shop/secrets?fieldSelector=metadata.name%3Dcart-1-a", ""},
		{"GET", "/api/v1/namespaces/shop/configmaps", ""}, {"GET", "/api/v1/namespaces/shop/configmaps/cart-1-a", ""},
		{"GET", "/api/v1/namespaces/shop/configmaps?fieldSelector=metadata.name%3Dcart-1-a", ""},
		{"GET", "/apis/apps/v1/deployments", ""}, {"GET", "/api/v1/namespaces/shop/events", ""},
		{"GET", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1", ""},
		{"GET", "/apis/lockstep.dev/v1alpha1/sources", ""},
		{"POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews",
			`{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`},
		{"POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
			`{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview",` +
				`"spec":{"resourceAttributes":{"verb":"get","resource":"pods"}}}`},
		{"POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
			`{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectRulesReview","spec":{"namespace":"shop"}}`},
		{"POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews",
			`{"apiVersion":"authorization.k8s.io/v1","kind":"SubjectAccessReview","spec":{"user":"bob",` +
				`"resourceAttributes":{"verb":"get","resource":"pods"}}}`},
		{"POST", "/apis/authorization.k8s.io/v1/namespaces/shop/localsubjectaccessreviews",
			`{"apiVersion":"authorization.k8s.io/v1","kind":"LocalSubjectAccessReview","metadata":{"namespace":"shop"},` +
				`"spec":{"user":"bob","resourceAttributes":{"namespace":"shop","verb":"get","resource":"pods"}}}`},
		{"GET", "/apis/apps/v1/namespaces/shop/deployments/cart/scale", ""},
		{"GET", "/apis/apps/v1/namespaces/shop/deployments/cart/status", ""},
		{"GET", "/api/v1/watch/pods?timeoutSeconds=1", ""}, {"GET", "/api/v1/watch/namespaces/shop/pods/cart-1-a?timeoutSeconds=1", ""},
		{"GET", "/api/v1/watch/namespaces/shop/secrets/cart-1-a?timeoutSeconds=1", ""},
		{"POST", "/apis/authentication.k8s.io/v1/tokenreviews",
			`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":"x.y"}}`},

		{"GET", "/.well-known/openid-configuration", ""}, {"GET", "/openid/v1/jwks", ""},
		{"POST", "/api/v1/namespaces/shop/serviceaccounts/default/token",
			`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest",` +
				`"spec":{"boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":"cart-1-a","uid":"shop-cart-1-a-uid"}}}`},
		{"POST", "/api/v1/nodes", `{"apiVersion":"v1","kind":"Node","metadata":{"name":"n3"}}`},
		{"PATCH", "/api/v1/nodes/n1", `{"metadata":{"labels":{"disk":"ssd"}}}`},
		{"PATCH", "/api/v1/nodes/n1", `{"metadata":{"labels":{"node-restriction.kubernetes.io/zone":"a"}}}`},
		{"PATCH", "/api/v1/nodes/n1", `{"metadata":{"labels":{"node-role.kubernetes.io/control-plane":""}}}`},
		{"PATCH", "/api/v1/nodes/n1", `{"spec":{"taints":[{"key":"a","effect":"NoSchedule"}]}}`},
		{"PATCH", "/api/v1/nodes/n1", `{"spec":{"unschedulable":true}}`},
		{"PATCH", "/api/v1/nodes/n1", `{"metadata":{"finalizers":["example.com/x"]}}`},
		{"PATCH", "/api/v1/nodes/n1",
			`{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"cart-1-a","uid":"shop-cart-1-a-uid"}]}}`},
		{"PATCH", "/api/v1/nodes/n1/status", status},
		{"DELETE", "/api/v1/nodes/n1", ""},
		{"PATCH", "/api/v1/namespaces/shop/pods/cart-1-a/status", status},
		{"PATCH", "/api/v1/namespaces/shop/pods/cart-1-b/status", status},
		{"PATCH", "/api/v1/namespaces/shop/pods/gone/status", status},
		{"DELETE", "/api/v1/namespaces/shop/pods/gone",
			`{"apiVersion":"v1","kind":"DeleteOptions","gracePeriodSeconds":0,"preconditions":{"uid":"other"}}`},
		{"PATCH", "/api/v1/namespaces/shop/pods/cart-1-a", `{"metadata":{"labels":{"a":"b"}}}`},
		{"POST", "/api/v1/namespaces/shop/events", event("Pod", "cart-1-a")},
		{"POST", "/api/v1/namespaces/shop/events", event("Pod", "cart-1-b")},
		{"POST", "/api/v1/namespaces/shop/events", event("Service", "cart")},
		{"POST", "/api/v1/namespaces/shop/events",
			`{"apiVersion":"v1","kind":"Event","metadata":{"generateName":"e-","namespace":"shop"},"reason":"R","type":"Normal",` +
				`"involvedObject":{"kind":"Pod","namespace":"shop","name":"cart-1-b","uid":"other"}}`},
		{"POST", "/api/v1/namespaces/shop/events",
			`{"apiVersion":"v1","kind":"Event","metadata":{"generateName":"e-","namespace":"shop"},"reason":"R","type":"Normal",` +
				`"reportingComponent":"c","reportingInstance":"n2","involvedObject":{"kind":"Pod","namespace":"shop","name":"cart-1-a"}}`},
		{"POST", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", lease("n2")},
		{"PUT", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1", lease("n1")},
		{"DELETE", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1", ""},
		{"POST", "/api/v1/namespaces/shop/pods", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"made"}}`},
		{"POST", "/api/v1/namespaces/shop/configmaps", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"made"}}`},
		{"POST", "/api/v1/namespaces/shop/pods/cart-1-a/eviction", `{}`},
		{"POST", "/api/v1/namespaces/shop/pods/cart-1-a/binding", `{}`},
		{"POST", "/api/v1/namespaces/shop/pods/cart-1-a/exec?command=sh", ``},
		{"PATCH", "/apis/apps/v1/namespaces/shop/deployments/cart", `{"spec":{"replicas":9}}`},
		{"PUT", "/apis/apps/v1/namespaces/shop/deployments/cart/scale", `{}`},
		{"DELETE", "/api/v1/namespaces/shop/pods", ""},
		{"DELETE", "/api/v1/namespaces/shop", ""},
		{"DELETE", "/api/v1/namespaces/shop/pods/cart-1-a", ""},
		{"DELETE", "/api/v1/namespaces/shop/pods/cart-1-a", `{"apiVersion":"v1","kind":"DeleteOptions","gracePeriodSeconds":0}`},
		{"DELETE", "/api/v1/namespaces/shop/pods/cart-1-a",
			`{"apiVersion":"v1","kind":"DeleteOptions","gracePeriodSeconds":0,"preconditions":{"uid":"other"}}`},
		{"DELETE", "/api/v1/namespaces/shop/pods/cart-1-a",
			`{"apiVersion":"v1","kind":"DeleteOptions","gracePeriodSeconds":0,"preconditions":{"uid":"shop-cart-1-a-uid"}}`},
	}
	var out strings.Builder
	messages := map[string]string{}
	for _, r := range requests {
		line := strings.TrimSpace(r.method + " " + r.path + " " + r.body)
		fmt.Fprintf(&out, "%s\n   ", line)
		for _, c := range callers {
			code, body := s.ask(c.config, r.method, r.path, r.body)
			if _, err := s.server.hub.Wait(t.Context(), s.store.View().Revision()); err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&out, " %s=%d", c.name, code)
			if strings.Contains(body, "canary-7f3") && !strings.HasPrefix(c.name, "node-") {
				t.Errorf("%s as %s shows a secret", line, c.name)
			}
			var st metav1.Status
			if code >= 400 && json.Unmarshal([]byte(body), &st) == nil &&
				(strings.HasPrefix(c.name, "node-") || c.name == "viewer" || c.name == "account") {
				messages[c.name] += fmt.Sprintf("%s: %d %s: %s\n", line, code, st.Reason, st.Message)
			}
		}
		out.WriteString("\n")
	}
	for _, name := range []string{"viewer", "node-n1", "node-n2", "account"} {
		fmt.Fprintf(&out, "\n-- what %s is told\n%s", name, messages[name])
	}
	printed(t, "rights.txt", out.String())
}

// ask makes one request and returns the code and the body.
func (s *testServer) ask(config *rest.Config, method, path, body string) (int, string) {
	s.t.Helper()
	return s.askWith(config, nil, method, path, body)
}

// askWith is ask with more headers, or others.
func (s *testServer) askWith(config *rest.Config, header http.Header, method, path, body string) (int, string) {
	s.t.Helper()
	c, err := rest.HTTPClientFor(config)
	if err != nil {
		s.t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(s.t.Context(), method, "https://"+s.address+path, bytes.NewReader([]byte(body)))
	if err != nil {
		s.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		request.Header.Set("Content-Type", "application/merge-patch+json")
	}
	maps.Copy(request.Header, header)
	response, err := c.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return response.StatusCode, string(data)
}
