package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"lockstep/kinds"
)

// gatedCluster is programCluster with a pod that has readiness gates, and the account gate, whom a role grants the status of pods.
func gatedCluster() []kinds.Object {
	lets := &rbacv1.Role{ObjectMeta: named("shop", "lets-in"), Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"get", "update", "patch"}, APIGroups: []string{""}, Resources: []string{"pods/status"}}}}
	gate := rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: "shop", Name: "gate"}
	gated := testPod("shop", "gated", "n1")
	gated.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "example.com/in"}, {ConditionType: "Ready"}}
	gated.Status.Conditions = []corev1.PodCondition{{Type: corev1.ContainersReady, Status: corev1.ConditionTrue},
		{Type: corev1.PodReady, Status: corev1.ConditionFalse}}
	return append(programCluster(), gated, lets, bindingOf("shop", "lets-in", "lets-in", gate),
		&corev1.ServiceAccount{ObjectMeta: named("shop", "gate")})
}

// TestProgramsLetPodsIn is what programs are answered that set conditions of pods: in testdata/gates.txt.
func TestProgramsLetPodsIn(t *testing.T) {
	s := newTestServer(t, nil, gatedCluster()...)
	who := map[string]*rest.Config{"gate": s.program("gate"), "leader": s.program("leader"), "root": s.program("root"),
		"viewer": s.viewer(), "node": s.node("n1")}
	const gated = "/api/v1/namespaces/shop/pods/gated"
	condition := func(kind, status string) string {
		return fmt.Sprintf(`{"status":{"conditions":[{"type":%q,"status":%q}]}}`, kind, status)
	}
	in := func(status string) string { return condition("example.com/in", status) }
	merges := http.Header{"Content-Type": {"application/strategic-merge-patch+json"}}
	var out strings.Builder
	for _, ask := range []struct {
		title, who, method, path, body string
		header                         http.Header
	}{
		{"lets a pod in", "gate", "PATCH", gated + "/status", in("True"), merges},
		{"with no other condition", "gate", "PATCH", gated + "/status", in("True"), nil},
		{"and again", "gate", "PATCH", gated + "/status", in("True"), merges},
		{"and not any more", "gate", "PATCH", gated + "/status", in("False"), merges},
		{"perhaps", "gate", "PATCH", gated + "/status", in("Perhaps"), merges},
		{"with many words", "gate", "PATCH", gated + "/status",
			`{"status":{"conditions":[{"type":"example.com/in","status":"True","message":"` + strings.Repeat("x", 33<<10) + `"}]}}`,
			merges},
		{"by a condition of the node's", "gate", "PATCH", gated + "/status", condition("Ready", "True"), merges},
		{"by one that is no gate", "gate", "PATCH", gated + "/status", condition("a.b/c", "True"), merges},
		{"elsewhere", "gate", "PATCH", gated + "/status", `{"status":{"podIP":"10.0.0.1"}}`, merges},
		{"with an end", "gate", "PATCH", gated + "/status", `{"status":{"phase":"Succeeded"}}`, merges},
		{"with a label", "gate", "PATCH", gated + "/status",
			`{"metadata":{"labels":{"app":"other"}},"status":{"conditions":[]}}`, merges},
		{"twice in one", "gate", "PUT", gated + "/status", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"gated"},"spec":{},` +
			`"status":{"conditions":[{"type":"example.com/in","status":"True"},{"type":"example.com/in","status":"False"}]}}`, nil},
		{"in a revision that was", "gate", "PATCH", gated + "/status",
			`{"metadata":{"resourceVersion":"1"},"status":{"reason":"x"}}`, merges},
		{"of what a manifest states", "gate", "PATCH", "/api/v1/namespaces/shop/pods/cart-1-a/status", in("True"), merges},
		{"the pod itself", "gate", "PATCH", gated, `{"metadata":{"labels":{"app":"other"}}}`, nil},
		{"without a role", "leader", "PATCH", gated + "/status", in("True"), merges},
		{"as a person", "viewer", "PATCH", gated + "/status", in("True"), merges},
		{"whoever may everything", "root", "PATCH", gated + "/status", in("True"), merges},
		{"elsewhere", "root", "PATCH", gated + "/status", `{"status":{"phase":"Failed"}}`, merges},
		{"as the node of the pod", "node", "PATCH", gated + "/status", in("False"), merges},
		{"and it is as the program said", "gate", "GET", gated + "/status", "", nil},
	} {
		code, body := s.askWith(who[ask.who], ask.header, ask.method, ask.path, ask.body)
		var told string
		var status metav1.Status
		var p corev1.Pod
		switch {
		case json.Unmarshal([]byte(body), &status) == nil && status.Kind == "Status":
			told = fmt.Sprintf("%s %s", status.Reason, status.Message)
		case json.Unmarshal([]byte(body), &p) == nil && p.Kind == "Pod":
			told = fmt.Sprintf("app=%s", p.Labels["app"])
			for _, c := range p.Status.Conditions {
				told += fmt.Sprintf(" %s=%s", c.Type, c.Status)
			}
		default:
			t.Fatalf("%s: %s", ask.title, body)
		}
		fmt.Fprintf(&out, "%s: %s %s %s\n    %d %s\n", ask.title, ask.who, ask.method, ask.path, code, told)
	}
	printed(t, "gates.txt", out.String())
}
