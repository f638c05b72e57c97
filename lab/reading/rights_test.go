package reading

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"lockstep/lab"
)

// certificate is a client with the certificate that an agent got when it joined.
func certificate(t *testing.T, h *lab.Host) *rest.Config {
	t.Helper()
	dir := filepath.Join(h.DataDir(), "agent")
	config := &rest.Config{Host: cluster.config.Host, QPS: -1}
	// A configuration that names files has goroutines that look at them again, until the garbage collector ends it.
	for name, into := range map[string]*[]byte{"ca.crt": &config.CAData, "client.crt": &config.CertData, "client.key": &config.KeyData} {
		var err error
		if *into, err = os.ReadFile(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return config
}

// TestRights asks the running server everything that the table of the API's own test has, with the certificates of two
// agents, and wants the same answers.
func TestRights(t *testing.T) {
	settled(t)
	token, err := os.ReadFile(filepath.Join(cluster.lab.Dir(), "join-token"))
	if err != nil {
		t.Fatal(err)
	}
	_, join, _ := strings.Cut(strings.TrimSpace(string(token)), ".")
	bearer := func(token string) *rest.Config {
		return &rest.Config{
			Host:            cluster.config.Host,
			BearerToken:     token,
			TLSClientConfig: rest.TLSClientConfig{CAData: cluster.config.CAData},
		}
	}
	clients := map[string]*http.Client{}
	for name, config := range map[string]*rest.Config{
		"anonymous": bearer(""), "bad-token": bearer("abc.def"), "join-token": bearer(join), "viewer": cluster.config,
		"node-n1": certificate(t, cluster.lab.Agents()[0]), "node-n2": certificate(t, cluster.lab.Agents()[1]),
	} {
		if clients[name], err = rest.HTTPClientFor(config); err != nil {
			t.Fatal(err)
		}
	}
	pod, err := cluster.client.CoreV1().Pods("shop").Get(t.Context(), "cart-1-a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	here := strings.NewReplacer("shop-cart-1-a-uid", string(pod.UID))
	nodes := regexp.MustCompile(`(\b|%3D)n([12])\b`)

	// What differs because here the agents are connected and have heartbeats, and the pod has its account's token.
	differs := map[string]string{
		"GET /lockstep/v1/tunnel as node-n1":                                             "426",
		"GET /lockstep/v1/tunnel as node-n2":                                             "426",
		"GET /lockstep/v1/rebuild as node-n1":                                            "200",
		"GET /lockstep/v1/rebuild as node-n2":                                            "200",
		"POST /lockstep/v1/rebuild as node-n1":                                           "200",
		"POST /lockstep/v1/rebuild as node-n2":                                           "200",
		"GET /api/v1/namespaces/shop/pods/cart-1-a/log as viewer":                        "200",
		"GET /api/v1/nodes/n1/proxy/stats/summary as viewer":                             "200",
		"GET /api/v1/nodes/n1/proxy/metrics/cadvisor as viewer":                          "200",
		"POST /api/v1/namespaces/shop/serviceaccounts/default/token as node-n1":          "201",
		"POST /apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases as node-n2": "409",
	}
	table, err := os.ReadFile("../../daemon/api/testdata/rights.txt")
	if err != nil {
		t.Fatal(err)
	}
	text, _, _ := strings.Cut(string(table), "\n\n-- what")
	rows := strings.Split(strings.TrimSpace(text), "\n")
	asked := 0
	for i := 0; i+1 < len(rows); i += 2 {
		request, answers := rows[i], strings.Fields(rows[i+1])
		method, rest, _ := strings.Cut(request, " ")
		path, body, _ := strings.Cut(rest, " ")
		for _, answer := range answers {
			who, want, _ := strings.Cut(answer, "=")
			c := clients[who]
			if c == nil {
				continue
			}
			code := ask(t, c, method, nodes.ReplaceAllString(here.Replace(path), "${1}rd-agent$2"),
				nodes.ReplaceAllString(here.Replace(body), "${1}rd-agent$2"))
			if other, ok := differs[method+" "+path+" as "+who]; ok {
				want = other
			}
			if got := fmt.Sprint(code); got != want {
				t.Errorf("%s as %s: %s, want %s", request, who, got, want)
			}
			asked++
		}
	}
	if asked < 400 {
		t.Errorf("only %d questions were asked", asked)
	}
}

// ask makes one request and returns the answer's code. A tunnel's connection is not read further.
func ask(t *testing.T, c *http.Client, method, path, body string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, cluster.config.Host+path, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		request.Header.Set("Content-Type", "application/merge-patch+json")
	}
	response, err := c.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode
}
