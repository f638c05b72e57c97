package api

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"lockstep/daemon/pki"
	"lockstep/daemon/rights"
	"lockstep/kinds"
	"lockstep/store"
)

func toUser(name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}
}

func toGroup(name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: name}
}

// roleOf is one that grants verbs on resources of the core group.
func roleOf(namespace, name, verbs, resources string) *rbacv1.Role {
	return &rbacv1.Role{ObjectMeta: named(namespace, name), Rules: []rbacv1.PolicyRule{
		{Verbs: strings.Fields(verbs), APIGroups: []string{""}, Resources: strings.Fields(resources)}}}
}

// bindingOf binds a role of its namespace.
func bindingOf(namespace, name, role string, to ...rbacv1.Subject) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{ObjectMeta: named(namespace, name), Subjects: to,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role}}
}

// answered asks until an answer is as wanted, for what is written shows a moment later.
func (s *testServer) answered(config *rest.Config, path string, want int, says string) {
	s.t.Helper()
	for late := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		code, body := s.ask(config, "GET", path, "")
		if code == want && strings.Contains(body, says) {
			return
		}
		if time.Now().After(late) {
			s.t.Fatalf("GET %s: %d %s, want %d %q", path, code, body, want, says)
		}
	}
}

// TestRolesGrant: a user reads what bindings grant, and no more, from the moment they do until they do not.
func TestRolesGrant(t *testing.T) {
	s := newTestServer(t, nil, testCluster()...)
	jane, other := s.user("jane", "dev"), s.user("joe", "ops")
	const pods, secret = "/api/v1/namespaces/shop/pods", "/api/v1/namespaces/shop/secrets/cart-1-a"
	s.answered(jane, "/apis", 200, "apps")
	s.answered(jane, pods, 403,
		`pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"shop\""`)
	s.put(binding("shop", "dev", "view", toGroup("dev")))
	s.answered(jane, pods, 200, "cart-1-a")
	s.answered(jane, "/api/v1/namespaces/shop/pods/cart-1-a", 200, "cart-1-a")
	s.answered(jane, "/api/v1/pods", 403, `cannot list resource \"pods\" in API group \"\" at the cluster scope"`)
	s.answered(jane, "/api/v1/namespaces/shop", 200, "shop")
	s.answered(jane, "/api/v1/namespaces/bank", 403,
		`namespaces \"bank\" is forbidden: User \"jane\" cannot get resource \"namespaces\" in API group \"\" in the namespace \"bank\""`)
	s.answered(jane, secret, 403, `secrets \"cart-1-a\" is forbidden: User \"jane\" cannot get resource \"secrets\" in API group \"\"`)
	s.answered(other, pods, 403, "joe")
	s.put(roleOf("shop", "keys", "get", "secrets"), bindingOf("shop", "keys", "keys", toUser("jane")))
	s.answered(jane, secret, 200, "cart-1-a")
	s.answered(jane, "/api/v1/namespaces/shop/secrets", 403, "cannot list")
	s.answered(other, secret, 403, "joe")
	s.answered(s.viewer(), secret, 403, "viewers cannot read Secrets")
	s.put(bindingOf("shop", "lost", "nowhere", toUser("joe")))
	s.answered(other, pods, 403, `in the namespace \"shop\": RBAC: role.rbac.authorization.k8s.io \"nowhere\" not found"`)
	code, body := s.ask(jane, "DELETE", secret, "")
	if code != 405 || !strings.Contains(body, "not through its API") {
		t.Errorf("a user deletes: %d %s", code, body)
	}
	s.commit(s.remove(bindingOf("shop", "keys", "keys")))
	s.answered(jane, secret, 403, "jane")
}

// TestViewerIsBound: what viewers read is granted by bindings, which another of the same name replaces.
func TestViewerIsBound(t *testing.T) {
	s := newTestServer(t, nil, testCluster()...)
	for _, path := range []string{"/api/v1/pods", "/api/v1/nodes", "/metrics", "/apis/lockstep.dev/v1alpha1/sources"} {
		s.answered(s.viewer(), path, 200, "")
	}
	// A role view of the cluster's own that grants nothing takes nothing from them.
	s.put(&rbacv1.ClusterRole{ObjectMeta: named("", "view")})
	s.answered(s.user("jane"), "/apis", 200, "")
	for _, path := range []string{"/api/v1/pods", "/apis/metrics.k8s.io/v1/pods", "/apis/apps/v1/deployments"} {
		s.answered(s.viewer(), path, 200, "")
	}
	s.put(binding("", "lockstep:view-cluster", "lockstep:view-cluster"), binding("", "lockstep:view", "view"))
	for _, path := range []string{"/api/v1/pods", "/api/v1/nodes", "/metrics"} {
		s.answered(s.viewer(), path, 403, "alice")
	}
	s.answered(s.viewer(), "/apis", 200, "")
}

// TestWatchEndsWithItsBinding: it goes on while another binding grants it, and ends at once with the last; a role that is changed
// ends it too. Nobody else's does.
func TestWatchEndsWithItsBinding(t *testing.T) {
	s := newTestServer(t, nil, testCluster()...)
	s.put(roleOf("shop", "pods", "watch list", "pods"), bindingOf("shop", "one", "pods", toUser("jane")),
		bindingOf("shop", "two", "pods", toUser("jane"), toUser("joe")))
	s.answered(s.user("joe"), "/api/v1/namespaces/shop/pods", 200, "")
	janes, err := client(t, s.user("jane")).CoreV1().Pods("shop").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(janes.Stop)
	joes, err := client(t, s.user("joe")).CoreV1().Pods("shop").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(joes.Stop)
	viewers, err := client(t, s.viewer()).CoreV1().Pods("shop").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(viewers.Stop)
	take(t, janes, 2)
	take(t, joes, 2)
	take(t, viewers, 2)
	// In one revision, so that nothing is seen of what is written when the right is gone.
	s.commit(s.remove(bindingOf("shop", "two", "pods")), put(testPod("shop", "more", "n1")))
	for _, e := range ends(t, joes) {
		if o, ok := e.Object.(*corev1.Pod); ok {
			t.Errorf("joe sees %s", o.Name)
		}
	}
	expect(t, "jane's", take(t, janes, 1), "ADDED more")
	began := time.Now()
	changed := roleOf("shop", "pods", "list", "pods")
	s.commit(store.Write{Key: kinds.KeyOf(changed), Object: changed, If: store.Anyway, Reason: "test"})
	ends(t, janes)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	s.put(testPod("shop", "last", "n1"))
	expect(t, "the viewer's", take(t, viewers, 2), "ADDED more", "ADDED last")
}

// TestTokensOfUsers: a token stands for the user and the groups that it was made for, and a viewer's for a viewer.
func TestTokensOfUsers(t *testing.T) {
	s := newTestServer(t, nil, testCluster()...)
	s.put(binding("shop", "dev", "view", toGroup("dev")))
	tokens := pki.Tokens{Store: s.store, Commit: s.store}
	token, err := tokens.Create(t.Context(), pki.TokenOptions{Usages: []string{pki.UsageUser}, User: "jane", Groups: []string{"dev"}})
	if err != nil {
		t.Fatal(err)
	}
	jane := s.bearer(token.Bearer())
	s.answered(jane, "/api/v1/namespaces/shop/pods", 200, "")
	s.answered(jane, "/api/v1/nodes", 403, `User \"jane\"`)
	s.answered(jane, "/metrics", 403, `forbidden: User \"jane\" cannot get path \"/metrics\""`)
}

// TestKubectlAsUser asks kubectl, as a user, who they are and what they may.
func TestKubectlAsUser(t *testing.T) {
	s := newTestServer(t, nil, testCluster()...)
	s.put(binding("shop", "dev", "view", toGroup("dev")), roleOf("shop", "keys", "*", "secrets"),
		bindingOf("shop", "keys", "keys", toUser("jane")))
	config := s.user("jane", "dev")
	s.answered(config, "/api/v1/namespaces/shop/secrets", 200, "")
	var out strings.Builder
	for _, args := range []string{
		"auth whoami", "auth can-i list pods -n shop", "auth can-i list pods -n bank", "auth can-i get secrets -n shop",
		"auth can-i delete secrets -n shop", "auth can-i get /metrics", "auth can-i --list -n shop", "auth can-i --list -n bank",
		"get secrets -n shop", "get nodes", "get pods -A",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		text, ok := s.kubectlAs(ctx, "jane", config, strings.Fields(args)...)
		cancel()
		fmt.Fprintf(&out, "$ kubectl %s # %v\n%s\n", args, ok, text)
	}
	printed(t, "kubectl-user.txt", out.String())
}

// TestReviewsByRules: what a review says is what the rules say, in Kubernetes' words.
func TestReviewsByRules(t *testing.T) {
	s := newTestServer(t, nil, testCluster()...)
	s.put(binding("shop", "dev", "view", toGroup("dev")),
		binding("", "delegates", "system:auth-delegator", toUser("proxy")), binding("", "lost", "nowhere", toUser("joe")))
	s.answered(s.user("jane", "dev"), "/api/v1/namespaces/shop/pods", 200, "")
	const reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
	review := func(user, groups, namespace string) string {
		return fmt.Sprintf(`{"apiVersion":"authorization.k8s.io/v1","kind":"SubjectAccessReview","spec":{"user":%q,"groups":[%s],`+
			`"resourceAttributes":{"namespace":%q,"verb":"list","resource":"pods"}}}`, user, groups, namespace)
	}
	for _, test := range []struct{ user, groups, namespace, want string }{
		{"bob", `"dev"`, "shop", `true RBAC: allowed by RoleBinding "dev/shop" of ClusterRole "view" to Group "dev"`},
		{"bob", `"dev"`, "bank", "false "},
		{"joe", "", "shop", `false RBAC: clusterrole.rbac.authorization.k8s.io "nowhere" not found`},
		{"v", `"lockstep:viewers"`, "",
			`true RBAC: allowed by ClusterRoleBinding "lockstep:view" of ClusterRole "view" to Group "lockstep:viewers"`},
	} {
		code, body := s.ask(s.user("proxy"), "POST", reviews, review(test.user, test.groups, test.namespace))
		var answer struct {
			Status struct {
				Allowed bool
				Reason  string
			}
		}
		if err := json.Unmarshal([]byte(body), &answer); err != nil || code != 201 {
			t.Fatalf("%d %s: %v", code, body, err)
		}
		if got := fmt.Sprintf("%v %s", answer.Status.Allowed, answer.Status.Reason); got != test.want {
			t.Errorf("%s in %q: %s; want %s", test.user, test.namespace, got, test.want)
		}
	}
	const refused = `cannot create resource \"subjectaccessreviews\" in API group \"authorization.k8s.io\" at the cluster scope"`
	if code, body := s.ask(s.user("jane", "dev"), "POST", reviews, review("bob", "", "")); code != 403 || !strings.Contains(body, refused) {
		t.Errorf("anybody reviews others: %d %s", code, body)
	}
}

// BenchmarkJudge asks what every request of a viewer is judged by.
func BenchmarkJudge(b *testing.B) {
	s := newTestServer(b, nil, testCluster()...)
	id := identify("alice", []string{pki.ViewerGroup})
	v := s.store.View()
	list := rights.Access{Verb: "list", Resource: "pods"}
	for b.Loop() {
		s.server.decide(id.Subject, list, v)
	}
}
