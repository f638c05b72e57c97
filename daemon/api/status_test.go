package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"lockstep/kinds"
	"lockstep/kinds/ingress"
)

// tellingCluster is programCluster with services, and the account teller, whom roles grant the status of what programs may tell of.
func tellingCluster() []kinds.Object {
	tells := &rbacv1.ClusterRole{ObjectMeta: named("", "tells"), Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"get", "update", "patch"}, APIGroups: []string{"", "apps", "batch", "networking.k8s.io"},
			Resources: []string{"*/status"}}}}
	balanced := &corev1.Service{ObjectMeta: named("shop", "balanced"), Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer,
		ClusterIP: "10.43.0.77", ClusterIPs: []string{"10.43.0.77"}, LoadBalancerClass: new("example.com/lb"),
		Ports: []corev1.ServicePort{{Port: 80, NodePort: 30080}}}}
	class := func(name, controller string) *networkingv1.IngressClass {
		return &networkingv1.IngressClass{ObjectMeta: named("", name), Spec: networkingv1.IngressClassSpec{Controller: controller}}
	}
	reached := func(name, class string) *networkingv1.Ingress {
		return &networkingv1.Ingress{ObjectMeta: named("shop", name), Spec: networkingv1.IngressSpec{IngressClassName: &class,
			DefaultBackend: &networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: "cart",
				Port: networkingv1.ServiceBackendPort{Number: 80}}}}}
	}
	return append(programCluster(), tells, balanced, class("edge", "example.com/edge"), class("lockstep", ingress.Controller),
		reached("theirs", "edge"), reached("ours", "lockstep"), reached("nobodys", "absent"), binding("", "tells", "tells",
			rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: "shop", Name: "teller"}),
		&corev1.ServiceAccount{ObjectMeta: named("shop", "teller")})
}

// TestProgramsTell is what programs are answered that write the status of what others own: in testdata/status.txt.
func TestProgramsTell(t *testing.T) {
	s := newTestServer(t, nil, tellingCluster()...)
	who := map[string]*rest.Config{"teller": s.program("teller"), "leader": s.program("leader"), "root": s.program("root"),
		"viewer": s.viewer(), "node": s.node("n1")}
	const (
		cart      = "/apis/apps/v1/namespaces/shop/deployments/cart"
		node      = "/api/v1/nodes/n1"
		balanced  = "/api/v1/namespaces/shop/services/balanced"
		ingresses = "/apis/networking.k8s.io/v1/namespaces/shop/ingresses/"
	)
	merges := http.Header{"Content-Type": {"application/strategic-merge-patch+json"}}
	condition := func(kind, status string) string {
		return fmt.Sprintf(`{"status":{"conditions":[{"type":%q,"status":%q,"reason":"Seen"}]}}`, kind, status)
	}
	address := func(more string) string { return `{"status":{"loadBalancer":{"ingress":[{` + more + `}]}}}` }
	many := make([]string, 33)
	for i := range many {
		many[i] = fmt.Sprintf(`{"type":"c%d","status":"True"}`, i)
	}
	var out strings.Builder
	for _, ask := range []struct {
		title, who, method, path, body string
		header                         http.Header
	}{
		{"a condition", "teller", "PATCH", cart + "/status", condition("example.com/Seen", "True"), merges},
		{"another, and the first not any more", "teller", "PATCH", cart + "/status", condition("Other", "Unknown"), nil},
		{"the cluster's own", "teller", "PATCH", cart + "/status", condition("Available", "True"), merges},
		{"one that the cluster might set", "teller", "PATCH", cart + "/status", condition("lockstep.dev/x", "True"), merges},
		{"with a name that is none", "teller", "PATCH", cart + "/status", condition("a b", "True"), merges},
		{"perhaps", "teller", "PATCH", cart + "/status", condition("Other", "Perhaps"), merges},
		{"in many words", "teller", "PATCH", cart + "/status",
			`{"status":{"conditions":[{"type":"Other","status":"True","message":"` + strings.Repeat("x", 33<<10) + `"}]}}`, merges},
		{"too many", "teller", "PATCH", cart + "/status", `{"status":{"conditions":[` + strings.Join(many, ",") + `]}}`, nil},
		{"twice in one", "teller", "PATCH", cart + "/status",
			`{"status":{"conditions":[{"type":"Other","status":"True"},{"type":"Other","status":"False"}]}}`, nil},
		{"how many there are", "teller", "PATCH", cart + "/status", `{"status":{"readyReplicas":7}}`, merges},
		{"none of them, as typed clients write", "teller", "PATCH", cart + "/status", `{"status":{"readyReplicas":0}}`, merges},
		{"of a revision that was", "teller", "PATCH", cart + "/status", `{"metadata":{"resourceVersion":"1"}}`, merges},
		{"what a manifest states", "teller", "PATCH", cart + "/status", `{"spec":{"replicas":9},"metadata":{"labels":{"a":"b"}}}`, merges},
		{"the object itself", "teller", "PATCH", cart, `{"spec":{"replicas":9}}`, merges},
		{"what is not there", "teller", "PATCH", cart + "no/status", condition("Other", "True"), merges},
		{"without a role", "leader", "PATCH", cart + "/status", condition("Other", "True"), merges},
		{"as a person", "viewer", "PATCH", cart + "/status", condition("Other", "True"), merges},
		{"as a node", "node", "PATCH", cart + "/status", condition("Other", "True"), merges},
		{"whoever may everything, asks only", "root", "PATCH", cart + "/status?dryRun=All", condition("Root", "True"), merges},
		{"none any more", "teller", "PATCH", cart + "/status", `{"status":{"conditions":null}}`, nil},

		{"of a node", "teller", "PATCH", node + "/status", condition("KernelDeadlock", "True"), merges},
		{"the node's own", "teller", "PATCH", node + "/status", condition("Ready", "False"), merges},
		{"what it has", "teller", "PATCH", node + "/status", `{"status":{"capacity":{"cpu":"64"}}}`, merges},
		{"the node takes it back", "node", "PATCH", node + "/status", condition("KernelDeadlock", "False"), merges},
		{"the node leaves it out", "node", "PATCH", node + "/status", condition("Ready", "True"), nil},
		{"the node says that it serves Ingresses", "node", "PATCH", node + "/status", condition("Ingress", "True"), merges},
		{"that it does not", "node", "PATCH", node + "/status", condition("Ingress", "False"), merges},
		{"which is not a program's to say", "teller", "PATCH", node + "/status", condition("Ingress", "True"), merges},
		{"and says what is no condition of its own", "node", "PATCH", node + "/status", condition("example.com/x", "True"), merges},

		{"where a service is reached", "teller", "PATCH", balanced + "/status", address(`"ip":"203.0.113.9"`), nil},
		{"by name", "teller", "PATCH", balanced + "/status", address(`"hostname":"lb.example.com"`), nil},
		{"at what is no address", "teller", "PATCH", balanced + "/status", address(`"ip":"here"`), nil},
		{"at an address of the cluster's", "teller", "PATCH", balanced + "/status", address(`"ip":"10.43.0.1"`), nil},
		{"at a node's", "teller", "PATCH", balanced + "/status", address(`"ip":"192.0.2.1"`), nil},
		{"at a node's, by a proxy", "teller", "PATCH", balanced + "/status", address(`"ip":"192.0.2.1","ipMode":"Proxy"`), nil},
		{"at more than nodes have rules for", "teller", "PATCH", balanced + "/status",
			address(`"ip":"203.0.113.9"` + strings.Repeat(`},{"ip":"203.0.113.9"`, 1000)), nil},
		{"in a way that is none", "teller", "PATCH", balanced + "/status", address(`"ip":"203.0.113.9","ipMode":"Magic"`), nil},
		{"of one that has none", "teller", "PATCH", "/api/v1/namespaces/shop/services/cart/status", address(`"ip":"203.0.113.9"`), nil},
		{"a condition of a service", "teller", "PATCH", balanced + "/status", condition("example.com/Announced", "True"), merges},
		{"without a role", "leader", "PATCH", balanced + "/status", address(`"ip":"203.0.113.9"`), nil},
		{"as a node", "node", "PATCH", balanced + "/status", address(`"ip":"203.0.113.9"`), nil},

		{"where an Ingress is reached that a program serves", "teller", "PATCH", ingresses + "theirs/status",
			address(`"ip":"203.0.113.9"`), nil},
		{"by name, at a node's address too", "teller", "PATCH", ingresses + "theirs/status",
			address(`"hostname":"edge.example.com"},{"ip":"192.0.2.1"`), merges},
		{"at what is no address", "teller", "PATCH", ingresses + "theirs/status", address(`"ip":"here"`), nil},
		{"what a manifest states", "teller", "PATCH", ingresses + "theirs/status",
			`{"spec":{"ingressClassName":"lockstep"},"metadata":{"labels":{"a":"b"}}}`, nil},
		{"nowhere any more", "teller", "PATCH", ingresses + "theirs/status", `{"status":null}`, nil},
		{"of one whose class is not there", "teller", "PATCH", ingresses + "nobodys/status", address(`"ip":"203.0.113.9"`), nil},
		{"of one that nodes serve", "teller", "PATCH", ingresses + "ours/status", address(`"ip":"203.0.113.9"`), nil},
		{"of that, nothing new", "teller", "PATCH", ingresses + "ours/status", `{"status":{"loadBalancer":{}}}`, nil},
		{"without a role", "leader", "PATCH", ingresses + "theirs/status", address(`"ip":"203.0.113.9"`), nil},
		{"as a person", "viewer", "PATCH", ingresses + "theirs/status", address(`"ip":"203.0.113.9"`), nil},
		{"as a node", "node", "PATCH", ingresses + "theirs/status", address(`"ip":"203.0.113.9"`), nil},
		{"the object itself", "teller", "PATCH", ingresses + "theirs", `{"spec":{"ingressClassName":"lockstep"}}`, nil},

		{"of a namespace", "teller", "PATCH", "/api/v1/namespaces/shop/status", condition("Checked", "True"), merges},
		{"its end", "teller", "PATCH", "/api/v1/namespaces/shop/status", `{"status":{"phase":"Terminating"}}`, merges},
		{"of what programs tell nothing of", "teller", "PATCH", "/api/v1/namespaces/shop/resourcequotas/x/status", `{}`, merges},
	} {
		code, body := s.askWith(who[ask.who], ask.header, ask.method, ask.path, ask.body)
		fmt.Fprintf(&out, "%s: %s %s %s\n    %s\n", ask.title, ask.who, ask.method, ask.path, conditionsIn(t, code, body))
	}
	printed(t, "status.txt", out.String())
}

// conditionsIn is an answer in a line: a refusal, or an object's conditions, addresses and what else a test wants to see unchanged.
func conditionsIn(t *testing.T, code int, body string) string {
	t.Helper()
	var status metav1.Status
	if json.Unmarshal([]byte(body), &status) == nil && status.Kind == "Status" {
		return toldOf(code, metav1.Status{Reason: status.Reason, Message: status.Message})
	}
	var o struct {
		Metadata struct{ Labels map[string]string }
		Spec     struct{ Replicas *int32 }
		Status   struct {
			Phase        string
			Capacity     map[string]string
			Conditions   []struct{ Type, Status string }
			LoadBalancer corev1.LoadBalancerStatus
		}
	}
	if err := json.Unmarshal([]byte(body), &o); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	told := fmt.Sprintf("%d a=%q", code, o.Metadata.Labels["a"])
	if o.Spec.Replicas != nil {
		told += fmt.Sprintf(" replicas=%d", *o.Spec.Replicas)
	}
	for _, c := range o.Status.Conditions {
		told += fmt.Sprintf(" %s=%s", c.Type, c.Status)
	}
	for _, at := range o.Status.LoadBalancer.Ingress {
		told += " at " + at.IP + at.Hostname
	}
	return told
}
