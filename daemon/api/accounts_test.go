package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"lockstep/daemon/api/accounts"
	"lockstep/daemon/pki"
	"lockstep/daemon/rights"
	"lockstep/internal/settings"
	"lockstep/kinds"
	"lockstep/store"
	"lockstep/store/view"
)

// accountCluster has a pod of n1 that shows a token for the API and one for a vault, and one of n2 that shows none.
func accountCluster() []kinds.Object {
	with := func(p *corev1.Pod, audiences ...string) *corev1.Pod {
		for _, a := range audiences {
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "t" + a, VolumeSource: corev1.VolumeSource{
				Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{
					ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", Audience: a},
				}}},
			}})
		}
		p.Spec.ServiceAccountName = "cart"
		return p
	}
	node := func(name string) *corev1.Node { return &corev1.Node{ObjectMeta: named("", name)} }
	return []kinds.Object{
		&corev1.Namespace{ObjectMeta: named("", "shop")}, node("n1"), node("n2"),
		&corev1.ServiceAccount{ObjectMeta: named("shop", "cart")}, &corev1.ServiceAccount{ObjectMeta: named("shop", "other")},
		with(testPod("shop", "a", "n1"), "", "vault"), with(testPod("shop", "b", "n2")),
	}
}

func (s *testServer) bearer(token string) *rest.Config {
	return &rest.Config{Host: "https://" + s.address, BearerToken: token,
		TLSClientConfig: rest.TLSClientConfig{CAData: s.authority.PEM()}}
}

// token asks for one as a node does, and returns what it is told where there is none.
func (s *testServer) token(node, account string, spec authenticationv1.TokenRequestSpec) (string, error) {
	s.t.Helper()
	c, err := kubernetes.NewForConfig(s.node(node))
	if err != nil {
		s.t.Fatal(err)
	}
	r, err := c.CoreV1().ServiceAccounts("shop").CreateToken(s.t.Context(), account, &authenticationv1.TokenRequest{Spec: spec},
		metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return r.Status.Token, nil
}

func boundTo(pod string) authenticationv1.TokenRequestSpec {
	uid := testPod("shop", pod, "").UID
	return authenticationv1.TokenRequestSpec{
		BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod, UID: uid},
	}
}

// TestTokensAreForOnesOwnPods asks for tokens that a node may not have.
func TestTokensAreForOnesOwnPods(t *testing.T) {
	s := newTestServer(t, nil, accountCluster()...)
	change := func(f func(*authenticationv1.TokenRequestSpec)) authenticationv1.TokenRequestSpec {
		spec := boundTo("a")
		f(&spec)
		return spec
	}
	for _, test := range []struct {
		name, node, account string
		spec                authenticationv1.TokenRequestSpec
		want                string
	}{
		{"its own", "n1", "cart", boundTo("a"), ""},
		{"another audience that the pod names", "n1", "cart",
			change(func(r *authenticationv1.TokenRequestSpec) { r.Audiences = []string{"vault"} }), ""},
		{"of another node", "n2", "cart", boundTo("a"), "bound to a pod scheduled on a different node"},
		{"of another account", "n1", "other", boundTo("a"), "runs as another service account"},
		{"of no account", "n1", "gone", boundTo("a"), `serviceaccounts "gone" not found`},
		{"bound to nothing", "n1", "cart", authenticationv1.TokenRequestSpec{}, "not bound to a pod"},
		{"without the uid", "n1", "cart", change(func(r *authenticationv1.TokenRequestSpec) { r.BoundObjectRef.UID = "" }),
			"without a uid"},
		{"of another pod of that name", "n1", "cart", change(func(r *authenticationv1.TokenRequestSpec) { r.BoundObjectRef.UID = "x" }),
			"another one has its name"},
		{"an audience that the pod does not name", "n1", "cart",
			change(func(r *authenticationv1.TokenRequestSpec) { r.Audiences = []string{"bank"} }), "shows a token for bank"},
		{"of a pod that shows none", "n2", "cart", boundTo("b"), "shows a token for"},
		{"for a moment", "n1", "cart", change(func(r *authenticationv1.TokenRequestSpec) { r.ExpirationSeconds = new(int64(60)) }),
			"may not specify a duration less than 10 minutes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			token, err := s.token(test.node, test.account, test.spec)
			told := ""
			if err != nil {
				told = err.Error()
			}
			if (token != "") != (test.want == "") || !strings.Contains(told, test.want) {
				t.Errorf("got %q, %v", token, err)
			}
		})
	}
	code, body := s.ask(s.viewer(), "POST", "/api/v1/namespaces/shop/serviceaccounts/cart/token", `{}`)
	if code != http.StatusForbidden {
		t.Errorf("a viewer is answered %d %s", code, body)
	}
}

// TestAccountsAreKnown shows a pod's token to the API, until the pod, its account or its node is gone.
func TestAccountsAreKnown(t *testing.T) {
	for _, gone := range []kinds.Object{
		testPod("shop", "a", "n1"), &corev1.ServiceAccount{ObjectMeta: named("shop", "cart")}, &corev1.Node{ObjectMeta: named("", "n1")},
	} {
		t.Run(kinds.KeyOf(gone).String(), func(t *testing.T) {
			s := newTestServer(t, nil, accountCluster()...)
			token, err := s.token("n1", "cart", boundTo("a"))
			if err != nil {
				t.Fatal(err)
			}
			code, body := s.ask(s.bearer(token), "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews",
				`{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`)
			var self authenticationv1.SelfSubjectReview
			if err := json.Unmarshal([]byte(body), &self); code != http.StatusCreated || err != nil {
				t.Fatalf("%d %s", code, body)
			}
			u := self.Status.UserInfo
			groups := strings.Join(u.Groups, " ")
			bound := fmt.Sprint(u.Extra["authentication.kubernetes.io/pod-name"], u.Extra["authentication.kubernetes.io/node-name"])
			if u.Username != "system:serviceaccount:shop:cart" || u.UID == "" || bound != "[a] [n1]" ||
				groups != "system:serviceaccounts system:serviceaccounts:shop system:authenticated" {
				t.Errorf("it is known as %+v", u)
			}
			code, body = s.ask(s.bearer(token), "GET", "/api/v1/namespaces/shop/pods", "")
			if code != http.StatusForbidden ||
				!strings.Contains(body, `User \"system:serviceaccount:shop:cart\" cannot list resource \"pods\"`) {
				t.Errorf("pods: %d %s", code, body)
			}
			if code, _ = s.ask(s.bearer(token), "GET", "/apis", ""); code != http.StatusOK {
				t.Errorf("discovery: %d", code)
			}
			rev := s.commit(store.Write{Key: kinds.KeyOf(gone), If: store.Anyway, Reason: "test"})
			if _, err := s.store.Wait(t.Context(), rev); err != nil {
				t.Fatal(err)
			}
			if code, body = s.ask(s.bearer(token), "GET", "/apis", ""); code != http.StatusUnauthorized {
				t.Errorf("after it is gone: %d %s", code, body)
			}
		})
	}
}

// TestTokensOfOthers: what this cluster did not sign, or for somebody else, or long ago, is nobody's.
func TestTokensOfOthers(t *testing.T) {
	s, other := newTestServer(t, nil, accountCluster()...), newTestServer(t, nil, accountCluster()...)
	foreign, err := other.token("n1", "cart", boundTo("a"))
	if err != nil {
		t.Fatal(err)
	}
	vault := boundTo("a")
	vault.Audiences = []string{"vault"}
	forVault, err := s.token("n1", "cart", vault)
	if err != nil {
		t.Fatal(err)
	}
	own, err := accounts.New(s.authority.AccountKey(), Issuer(settings.Default()), s.store.View)
	if err != nil {
		t.Fatal(err)
	}
	bound := accounts.Bound{
		Account: &corev1.ServiceAccount{ObjectMeta: named("shop", "cart")}, Pod: testPod("shop", "a", "n1"),
		Node: &corev1.Node{ObjectMeta: named("", "n1")},
	}
	late, err := own.Issue(t.Context(), bound, []string{own.Audience()}, -3600)
	if err != nil {
		t.Fatal(err)
	}
	good, err := own.Issue(t.Context(), bound, []string{own.Audience()}, 3600)
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{
		"another cluster's": foreign, "for a vault": forVault, "expired": late, "altered": good[:len(good)-8] + "AAAAAAAA",
		"no token": "a.b.c",
	} {
		if code, body := s.ask(s.bearer(token), "GET", "/apis", ""); code != http.StatusUnauthorized {
			t.Errorf("%s: %d %s", name, code, body)
		}
	}
	review := func(token string, audiences ...string) authenticationv1.TokenReviewStatus {
		c, err := kubernetes.NewForConfig(s.viewer())
		if err != nil {
			t.Fatal(err)
		}
		spec := authenticationv1.TokenReviewSpec{Token: token, Audiences: audiences}
		r, err := c.AuthenticationV1().TokenReviews().Create(t.Context(), &authenticationv1.TokenReview{Spec: spec}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return r.Status
	}
	if got := review(forVault, "vault", "bank"); !got.Authenticated || fmt.Sprint(got.Audiences) != "[vault]" ||
		got.User.Username != "system:serviceaccount:shop:cart" {
		t.Errorf("for the vault: %+v", got)
	}
	if got := review(forVault, "bank"); got.Authenticated || got.Error == "" {
		t.Errorf("for another audience: %+v", got)
	}
	if got := review(good); !got.Authenticated {
		t.Errorf("for the API: %+v", got)
	}
	const api = "https://kubernetes.default.svc.cluster.local"
	jane, err := pki.Tokens{Store: s.store, Commit: s.store}.Create(t.Context(),
		pki.TokenOptions{Usages: []string{pki.UsageUser}, User: "jane"})
	if err != nil {
		t.Fatal(err)
	}
	person := jane.Bearer()
	if got := review(person); !got.Authenticated || fmt.Sprint(got.Audiences) != "["+api+"]" {
		t.Errorf("a person's: %+v", got)
	}
	if got := review(person, "vault", api); !got.Authenticated || fmt.Sprint(got.Audiences) != "["+api+"]" {
		t.Errorf("a person's, for the API, too: %+v", got)
	}
	if got := review(person, "vault"); got.Authenticated || got.User.Username != "" {
		t.Errorf("a person's, for the vault: %+v", got)
	}
}

// TestIssuerIsDescribed reads who signs, and by which keys, as whoever wants to verify tokens does.
func TestIssuerIsDescribed(t *testing.T) {
	s := newTestServer(t, nil, accountCluster()...)
	token, err := s.token("n1", "cart", boundTo("a"))
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Issuer string   `json:"issuer"`
		Keys   string   `json:"jwks_uri"`
		Algs   []string `json:"id_token_signing_alg_values_supported"`
	}
	_, body := s.ask(s.bearer(token), "GET", "/.well-known/openid-configuration", "")
	if err := json.Unmarshal([]byte(body), &config); err != nil {
		t.Fatal(err)
	}
	const issuer = "https://kubernetes.default.svc.cluster.local"
	if config.Issuer != issuer || config.Keys != issuer+"/openid/v1/jwks" || fmt.Sprint(config.Algs) != "[ES256]" {
		t.Errorf("it is %+v", config)
	}
	_, body = s.ask(s.bearer(token), "GET", "/openid/v1/jwks", "")
	if !strings.Contains(body, `"crv":"P-256"`) || strings.Contains(body, `"d":`) {
		t.Errorf("the keys are %s", body)
	}
	if code, _ := s.ask(s.bearer(""), "GET", "/openid/v1/jwks", ""); code != http.StatusUnauthorized {
		t.Errorf("nobody is answered %d", code)
	}
}

// TestWatchEndsWithItsAccount: what a pod's token has opened ends with the pod.
func TestWatchEndsWithItsAccount(t *testing.T) {
	s := newTestServer(t, nil, accountCluster()...)
	s.put(binding("", "cart", "view", rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: "shop", Name: "cart"}))
	st := newStays(s.server.decide)
	token, err := s.token("n1", "cart", boundTo("a"))
	if err != nil {
		t.Fatal(err)
	}
	id, err := s.server.byToken(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	list := rights.Access{Verb: "watch", Resource: "pods"}
	leave := st.enter(&stay{id: id, access: list, end: func() { close(ended) }})
	old := testPod("shop", "a", "n1")
	rev := s.commit(store.Write{Key: kinds.KeyOf(old), If: store.Anyway, Reason: "test"})
	v, err := s.store.Wait(t.Context(), rev)
	if err != nil {
		t.Fatal(err)
	}
	all, grants, losers := bearing([]view.Change{{Old: old}})
	st.judge(v, all || grants, losers)
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("it goes on")
	}
	if leave(); len(st.ofPods) > 0 {
		t.Errorf("left: %v", st.ofPods)
	}
}
