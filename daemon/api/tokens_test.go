package api

import (
	"net/http"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"lockstep/kinds"
	"lockstep/store"
)

// tokenCluster lets jane ask for tokens of the account cart alone, and joe edit.
func tokenCluster() []kinds.Object {
	role := roleOf("shop", "tokens", "create", "serviceaccounts/token")
	role.Rules[0].ResourceNames = []string{"cart", "gone"}
	return append(accountCluster(), &corev1.Secret{ObjectMeta: named("shop", "key")}, role,
		bindingOf("shop", "tokens", "tokens", toUser("jane")), binding("shop", "joe", "edit", toUser("joe")))
}

// tokenFor asks for a token as somebody.
func (s *testServer) tokenFor(config *rest.Config, account string,
	spec authenticationv1.TokenRequestSpec) (*authenticationv1.TokenRequest, error) {
	s.t.Helper()
	return client(s.t, config).CoreV1().ServiceAccounts("shop").CreateToken(s.t.Context(), account,
		&authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})
}

func boundToA(kind, name string, uid types.UID) authenticationv1.TokenRequestSpec {
	return authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{
		APIVersion: "v1", Kind: kind, Name: name, UID: uid}}
}

// TestTokensAreForWhomRolesLet asks for tokens as people and programs do, by kubectl create token.
func TestTokensAreForWhomRolesLet(t *testing.T) {
	s := newTestServer(t, nil, tokenCluster()...)
	jane := s.user("jane")
	lasting := func(seconds int64) authenticationv1.TokenRequestSpec {
		return authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}
	}
	for _, test := range []struct {
		name    string
		who     *rest.Config
		account string
		spec    authenticationv1.TokenRequestSpec
		want    string
	}{
		{"bound to nothing", jane, "cart", authenticationv1.TokenRequestSpec{}, ""},
		{"of another account", jane, "other", authenticationv1.TokenRequestSpec{},
			`User "jane" cannot create resource "serviceaccounts/token"`},
		{"of no account", jane, "gone", authenticationv1.TokenRequestSpec{}, `serviceaccounts "gone" not found`},
		{"who edits", s.user("joe"), "other", authenticationv1.TokenRequestSpec{}, ""},
		{"a viewer", s.viewer(), "cart", authenticationv1.TokenRequestSpec{},
			`User "alice" cannot create resource "serviceaccounts/token"`},
		{"a node, of what is not its pod's", s.node("n1"), "cart", authenticationv1.TokenRequestSpec{}, "not bound to a pod"},
		{"for a moment", jane, "cart", lasting(599), "may not specify a duration less than 10 minutes"},
		{"for ten minutes", jane, "cart", lasting(600), ""},
		{"for ever", jane, "cart", lasting(1<<32 + 1), "may not specify a duration larger than 2^32 seconds"},
		{"with an attestation", jane, "cart", authenticationv1.TokenRequestSpec{
			Attestations: map[string]authenticationv1.AttestationValue{"a": {"b"}}},
			"attestations may only be specified with a webhook bound object reference"},
		{"bound to a pod", jane, "cart", boundToA("Pod", "a", ""), ""},
		{"bound to a pod by its uid", jane, "cart", boundToA("Pod", "a", "shop-a-uid"), ""},
		{"bound to a pod that was", jane, "cart", boundToA("Pod", "a", "x"),
			`Operation cannot be fulfilled on Pod "a": the UID in the bound object reference (x) does not match the UID in record`},
		{"bound to no pod", jane, "cart", boundToA("Pod", "c", ""), `pods "c" not found`},
		{"bound to another's pod", s.user("joe"), "other", boundToA("Pod", "a", ""),
			`cannot bind token for serviceaccount "other" to pod running with different serviceaccount name.`},
		{"bound to a node", jane, "cart", boundToA("Node", "n1", ""), ""},
		{"bound to a Secret", jane, "cart", boundToA("Secret", "key", ""), ""},
		{"bound to a ConfigMap", jane, "cart", boundToA("ConfigMap", "c", ""), "cannot bind token to object of type /v1, Kind=ConfigMap"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, err := s.tokenFor(test.who, test.account, test.spec)
			told := ""
			if err != nil {
				told = err.Error()
			}
			if (err == nil) != (test.want == "") || !strings.Contains(told, test.want) {
				t.Fatalf("got %v, %v", r, err)
			}
			if err != nil {
				return
			}
			code, body := s.ask(s.bearer(r.Status.Token), "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews",
				`{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`)
			if code != http.StatusCreated || !strings.Contains(body, `"username":"system:serviceaccount:shop:`+test.account+`"`) {
				t.Errorf("by the token one is %d %s", code, body)
			}
		})
	}
	r, err := s.tokenFor(jane, "cart", lasting(10*365*24*3600))
	if err != nil || *r.Spec.ExpirationSeconds != maxTokenSeconds || time.Until(r.Status.ExpirationTimestamp.Time) > 366*24*time.Hour {
		t.Errorf("for ten years: %v, %v", r, err)
	}
	code, body := s.ask(jane, "POST", "/api/v1/namespaces/shop/serviceaccounts/cart/token",
		`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","metadata":{"namespace":"bank"}}`)
	if code < 400 {
		t.Errorf("of another namespace: %d %s", code, body)
	}
	r, err = s.tokenFor(jane, "cart", authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}})
	if err != nil {
		t.Fatal(err)
	}
	if code, body := s.ask(s.bearer(r.Status.Token), "GET", "/apis", ""); code != http.StatusUnauthorized {
		t.Errorf("a token for a vault is good for %d %s", code, body)
	}
	out, ok := s.kubectlAs(t.Context(), "jane", jane, "create", "token", "cart", "-n", "shop", "--duration", "20m",
		"--bound-object-kind", "Pod", "--bound-object-name", "a")
	if code, body := s.ask(s.bearer(strings.TrimSpace(out)), "GET", "/apis", ""); !ok || code != http.StatusOK {
		t.Errorf("kubectl's token %q: %d %s", out, code, body)
	}
	for who, want := range map[string]bool{"jane": true, "alice": false} {
		review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb: "create", Resource: "serviceaccounts", Subresource: "token", Namespace: "shop", Name: "cart"}}}
		answer, err := client(t, s.user(who)).AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), review,
			metav1.CreateOptions{})
		if err != nil || answer.Status.Allowed != want {
			t.Errorf("whether %s may: %v, %v", who, answer, err)
		}
	}
}

// TestTokensEndWithWhatTheyAreBoundTo: a token is nobody's once its account or what it is bound to is gone, or another is in its
// place.
func TestTokensEndWithWhatTheyAreBoundTo(t *testing.T) {
	for _, test := range []struct {
		name  string
		bound authenticationv1.TokenRequestSpec
		gone  kinds.Object
	}{
		{"nothing but its account", authenticationv1.TokenRequestSpec{}, &corev1.ServiceAccount{ObjectMeta: named("shop", "cart")}},
		{"a pod", boundToA("Pod", "a", ""), testPod("shop", "a", "n1")},
		{"a node", boundToA("Node", "n1", ""), &corev1.Node{ObjectMeta: named("", "n1")}},
		{"a Secret", boundToA("Secret", "key", ""), &corev1.Secret{ObjectMeta: named("shop", "key")}},
	} {
		for _, replaced := range []bool{false, true} {
			t.Run(test.name, func(t *testing.T) {
				s := newTestServer(t, nil, tokenCluster()...)
				s.put(binding("", "cart", "view", rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: "shop", Name: "cart"}))
				r, err := s.tokenFor(s.user("jane"), "cart", test.bound)
				if err != nil {
					t.Fatal(err)
				}
				config := s.bearer(r.Status.Token)
				s.answered(config, "/api/v1/namespaces/shop/configmaps", http.StatusOK, "")
				w := watchMaps(t, client(t, config), metav1.ListOptions{})
				write := store.Write{Key: kinds.KeyOf(test.gone), If: store.Anyway, Reason: "test"}
				if replaced {
					write.Object = test.gone.DeepCopyObject().(kinds.Object)
					write.Object.SetUID("another")
				}
				s.commit(write)
				s.answered(config, "/api/v1/namespaces/shop/configmaps", http.StatusUnauthorized, "")
				ended := time.After(20 * time.Second)
				for open := true; open; {
					select {
					case _, open = <-w.ResultChan():
					case <-ended:
						t.Fatal("its watch goes on")
					}
				}
			})
		}
	}
}
