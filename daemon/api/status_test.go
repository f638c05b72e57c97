package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"lockstep/kinds"
	"lockstep/kinds/ingress"
)

// tellingCluster is programCluster with services, and the account teller, whom roles grant the status of what programs may tell of.
func tellingCluster() []kinds.Object {
	tells := &rbacv1.ClusterRole{ObjectMeta: named("", "tells"), Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"get", "update", "patch"}, APIGroups: []string{"", "apps", "batch", "networking.k8s.io", "policy"},
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
	alone := &appsv1.ReplicaSet{ObjectMeta: named("shop", "alone"), Status: appsv1.ReplicaSetStatus{
		Replicas: 2, ReadyReplicas: 1, AvailableReplicas: 1, ObservedGeneration: 1}}
	rc := &corev1.ReplicationController{ObjectMeta: named("shop", "old"), Status: corev1.ReplicationControllerStatus{
		Replicas: 2, ReadyReplicas: 2, AvailableReplicas: 2, ObservedGeneration: 1}}
	quota := &corev1.ResourceQuota{ObjectMeta: named("shop", "most"), Spec: corev1.ResourceQuotaSpec{
		Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("4")}}}
	quota.Status.Hard = quota.Spec.Hard
	quota.Status.Used = corev1.ResourceList{corev1.ResourcePods: resource.MustParse("2")}
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: named("shop", "data"), Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: size}},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}}
	volume := &corev1.PersistentVolume{ObjectMeta: named("", "disk"), Spec: corev1.PersistentVolumeSpec{
		Capacity: size, AccessModes: claim.Spec.AccessModes,
		PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/data"}}},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable}}
	job := &batchv1.Job{ObjectMeta: named("shop", "once"), Status: batchv1.JobStatus{Succeeded: 1}}
	return append(programCluster(), alone, rc, quota, claim, volume, job, budgetOf("spare", 1, 3, 2), tells, balanced,
		class("edge", "example.com/edge"), class("lockstep", ingress.Controller),
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
		sets      = "/apis/apps/v1/namespaces/shop/replicasets/"
		quota     = "/api/v1/namespaces/shop/resourcequotas/most/status"
		budget    = "/apis/policy/v1/namespaces/shop/poddisruptionbudgets/spare/status"
		claim     = "/api/v1/namespaces/shop/persistentvolumeclaims/data/status"
		volume    = "/api/v1/persistentvolumes/disk/status"
	)
	var ends strings.Builder
	for i := range 2001 {
		fmt.Fprintf(&ends, `"p%d":"2026-01-02T03:04:05Z",`, i)
	}
	ends.WriteString(`"q":"2026-01-02T03:04:05Z"`)
	merges := http.Header{"Content-Type": {"application/strategic-merge-patch+json"}}
	condition := func(kind, status string) string {
		return fmt.Sprintf(`{"status":{"conditions":[{"type":%q,"status":%q,"reason":"Seen"}]}}`, kind, status)
	}
	since := func(kind string) string {
		return strings.Replace(condition(kind, "True"), `"type"`, `"lastTransitionTime":"2026-01-02T03:04:05Z","type"`, 1)
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
		{"how many there are", "teller", "PATCH", cart + "/status", `{"status":{"replicas":1}}`, merges},
		{"more than there are", "teller", "PATCH", cart + "/status", `{"status":{"readyReplicas":7}}`, merges},
		{"that none is ready", "teller", "PATCH", cart + "/status", `{"status":{"readyReplicas":0,"availableReplicas":0}}`, merges},
		{"that one is", "teller", "PATCH", cart + "/status", `{"status":{"readyReplicas":1}}`, nil},
		{"that this is of the newest", "teller", "PATCH", cart + "/status", `{"status":{"observedGeneration":1}}`, nil},
		{"nothing, as typed clients write", "teller", "PATCH", cart + "/status", `{"status":{"replicas":0,"observedGeneration":0}}`, nil},
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
		{"of what programs tell nothing of", "teller", "PATCH", "/api/v1/namespaces/shop/horizontalpodautoscalers/x/status", `{}`, merges},
		{"what is ready of a set that a rollout goes by", "teller", "PATCH", sets + "cart-1/status", `{"status":{"readyReplicas":1}}`, nil},
		{"of one that is nobody's", "teller", "PATCH", sets + "alone/status", `{"status":{"readyReplicas":2}}`, nil},
		{"of a ReplicationController", "teller", "PATCH", "/api/v1/namespaces/shop/replicationcontrollers/old/status",
			`{"status":{"readyReplicas":0,"availableReplicas":0}}`, merges},
		{"what a job has done", "teller", "PATCH", "/apis/batch/v1/namespaces/shop/jobs/once/status", `{"status":{"succeeded":2}}`, nil},
		{"what a quota grants", "teller", "PATCH", quota, `{"status":{"hard":{"pods":"9"}}}`, merges},
		{"what is used of it", "teller", "PATCH", quota, `{"status":{"used":{"pods":"0"}}}`, merges},
		{"less than none", "teller", "PATCH", quota, `{"status":{"used":{"pods":"-1"}}}`, merges},
		{"what a manifest states of it", "teller", "PATCH", quota, `{"spec":{"hard":{"pods":"99"}}}`, merges},
		{"as a person", "viewer", "PATCH", quota, `{"status":{"hard":{"pods":"9"}}}`, merges},
		{"as a node", "node", "PATCH", quota, `{"status":{"hard":{"pods":"9"}}}`, merges},
		{"without a role", "leader", "PATCH", quota, `{"status":{"hard":{"pods":"9"}}}`, merges},
		{"that a pod ends", "teller", "PATCH", budget, `{"status":{"disruptedPods":{"a":"2026-01-02T03:04:05Z"}}}`, merges},
		{"that more of them do than are counted", "teller", "PATCH", budget, `{"status":{"disruptedPods":{` + ends.String() + `}}}`, nil},
		{"how many may", "teller", "PATCH", budget, `{"status":{"disruptionsAllowed":9}}`, merges},
		{"how many are wanted", "teller", "PATCH", budget, `{"status":{"desiredHealthy":0}}`, nil},
		{"that one may, in other words", "teller", "PATCH", budget, since("DisruptionAllowed"), merges},
		{"a condition of a budget", "teller", "PATCH", budget, since("Seen"), merges},
		{"that none ends", "teller", "PATCH", budget, `{"status":{"disruptedPods":null}}`, nil},
		{"of a claim", "teller", "PATCH", claim, condition("example.com/BackedUp", "True"), merges},
		{"that it grows", "teller", "PATCH", claim, condition("Resizing", "True"), merges},
		{"that it is bound", "teller", "PATCH", claim, `{"status":{"phase":"Bound"}}`, merges},
		{"why a volume is as it is", "teller", "PATCH", volume, `{"status":{"reason":"Seen","message":"it is slow"}}`, merges},
		{"that nobody has it", "teller", "PATCH", volume, `{"status":{"phase":"Released"}}`, merges},
		{"in many words", "teller", "PATCH", volume, `{"status":{"message":"` + strings.Repeat("x", 33<<10) + `"}}`, merges},
		{"nothing more", "teller", "PATCH", volume, `{"status":{"reason":null,"message":null}}`, nil},
		{"the volume itself", "teller", "PATCH", strings.TrimSuffix(volume, "/status"), `{"spec":{"capacity":{"storage":"9Gi"}}}`, merges},
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
			Phase                            string
			Reason, Message                  string
			Capacity, Hard, Used             map[string]string
			Conditions                       []struct{ Type, Status string }
			LoadBalancer                     corev1.LoadBalancerStatus
			ReadyReplicas, AvailableReplicas *int
			ObservedGeneration               *int
			DisruptedPods                    map[string]string
		}
	}
	if err := json.Unmarshal([]byte(body), &o); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	told := fmt.Sprintf("%d a=%q", code, o.Metadata.Labels["a"])
	if o.Spec.Replicas != nil {
		told += fmt.Sprintf(" replicas=%d", *o.Spec.Replicas)
	}
	for _, count := range []struct {
		name string
		n    *int
	}{{"ready", o.Status.ReadyReplicas}, {"available", o.Status.AvailableReplicas}, {"observed", o.Status.ObservedGeneration}} {
		if count.n != nil {
			told += fmt.Sprintf(" %s=%d", count.name, *count.n)
		}
	}
	for _, list := range []map[string]string{o.Status.Hard, o.Status.Used, o.Status.DisruptedPods} {
		if list != nil {
			told += fmt.Sprint(" ", list)
		}
	}
	if o.Status.Reason+o.Status.Message != "" {
		told += fmt.Sprintf(" %s %q", o.Status.Reason, o.Status.Message)
	}
	for _, c := range o.Status.Conditions {
		told += fmt.Sprintf(" %s=%s", c.Type, c.Status)
	}
	for _, at := range o.Status.LoadBalancer.Ingress {
		told += " at " + at.IP + at.Hostname
	}
	return told
}
