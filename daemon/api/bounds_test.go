package api

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"

	"lockstep/kinds"
)

// A quantity whose exponent would take the library's memory is refused in every form that a body may have.
func TestQuantitiesOutOfBounds(t *testing.T) {
	s := newTestServer(t, nil, testCluster()...)
	const bomb = "1e999999999"
	node := `{"apiVersion":"v1","kind":"Node","metadata":{"name":"n1"},"status":{"capacity":{"cpu":"` + bomb + `"}}}`
	pod, err := (&corev1.Pod{Spec: corev1.PodSpec{Overhead: corev1.ResourceList{"cpu": resource.MustParse("1e65")}}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	message, err := (&runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v1", Kind: "Pod"}, Raw: pod}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ method, path, kind, body string }{
		"JSON":           {"PUT", "/api/v1/nodes/n1/status", "application/json", node},
		"JSON, a number": {"PUT", "/api/v1/nodes/n1/status", "application/json", strings.ReplaceAll(node, `"`+bomb+`"`, bomb)},
		"YAML": {"PUT", "/api/v1/nodes/n1/status", "application/yaml",
			"apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nstatus: {capacity: {cpu: " + bomb + "}}\n"},
		"a strategic patch": {"PATCH", "/api/v1/nodes/n1/status", "application/strategic-merge-patch+json",
			`{"status":{"capacity":{"cpu":"` + bomb + `"}}}`},
		"a merge patch": {"PATCH", "/api/v1/nodes/n1/status", "application/merge-patch+json",
			`{"status":{"capacity":{"cpu":"` + bomb + `"}}}`},
		"a JSON patch": {"PATCH", "/api/v1/nodes/n1/status", "application/json-patch+json",
			`[{"op":"add","path":"/status/capacity","value":{"cpu":"` + bomb + `"}}]`},
		"another kind": {"POST", "/api/v1/namespaces/shop/events", "application/json", node},
		"protobuf":     {"POST", "/api/v1/namespaces/shop/events", "application/vnd.kubernetes.protobuf", "k8s\x00" + string(message)},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			status, answer := send(t, s.node("n1"), c.method, c.path, c.kind, c.body)
			if status < 400 || status >= 500 || !strings.Contains(answer, "out of range") {
				t.Errorf("%d %s", status, answer)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
	if status, answer := send(t, s.node("n1"), "PATCH", "/api/v1/nodes/n1/status", "application/strategic-merge-patch+json",
		`{"status":{"capacity":{"cpu":"4"}}}`); status != 200 {
		t.Errorf("a good patch: %d %s", status, answer)
	}
}

func send(t *testing.T, config *rest.Config, method, path, kind, body string) (int, string) {
	t.Helper()
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, config.Host+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", kind)
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(answer)
}

// What a refusal says of where an object comes from moves no terminal's cursor.
func TestRefusalsArePlain(t *testing.T) {
	s := newTestServer(t, nil, testCluster()...)
	s.declare(kinds.Key{Group: "apps", Resource: "deployments", Namespace: "shop", Name: "cart"}, "a\x1b[31m\u202e\r\n.yaml", 1)
	status, answer := send(t, s.viewer(), "DELETE", "/apis/apps/v1/namespaces/shop/deployments/cart", "application/json", "")
	var told metav1.Status
	if err := json.Unmarshal([]byte(answer), &told); err != nil || status != 405 {
		t.Fatalf("%d %s: %v", status, answer, err)
	}
	if !strings.Contains(told.Message, `a\x1b[31m\u202e\r\n.yaml:1`) {
		t.Errorf("%q", told.Message)
	}
}

// TestCodecsAreWrappedOnce: the factory is shared, and asked at every request.
func TestCodecsAreWrappedOnce(t *testing.T) {
	for range 2 {
		for _, info := range (boundedCodecs{codecs}).SupportedMediaTypes() {
			outer, ok := info.Serializer.(boundedSerializer)
			if _, twice := outer.Serializer.(boundedSerializer); !ok || twice {
				t.Errorf("the codec of %s is bounded: %v, twice: %v", info.MediaType, ok, twice)
			}
		}
	}
}
