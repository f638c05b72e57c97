package api

import (
	"context"
	"fmt"
	"net/http"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/handlers"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/apis/authentication"
	authenticationvalidation "k8s.io/kubernetes/pkg/apis/authentication/validation"

	"lockstep/daemon/api/accounts"
	"lockstep/daemon/rights"
	"lockstep/kinds"
	"lockstep/store/view"
)

// defaultTokenSeconds is how long a token holds that names no time, as in Kubernetes.
const defaultTokenSeconds = 60 * 60

// keysAge is how long the keys of tokens may be taken for the newest, in seconds, as in Kubernetes.
const keysAge = 60 * 60

// tokenRequests answers with new tokens of a service account. Nothing is stored.
type tokenRequests struct{ *server }

var _ rest.NamedCreater = tokenRequests{}

// New implements rest.NamedCreater.
func (tokenRequests) New() runtime.Object { return &authenticationv1.TokenRequest{} }

// Create implements rest.NamedCreater: for a node, whose right was judged, and a pod of its own.
func (t tokenRequests) Create(ctx context.Context, name string, o runtime.Object, _ rest.ValidateObjectFunc,
	_ *metav1.CreateOptions) (runtime.Object, error) {
	r, namespace, v := o.(*authenticationv1.TokenRequest), request.NamespaceValue(ctx), t.store.View()
	if r.Spec.ExpirationSeconds == nil {
		r.Spec.ExpirationSeconds = new(int64(defaultTokenSeconds))
	}
	internal := &authentication.TokenRequest{Spec: authentication.TokenRequestSpec{ExpirationSeconds: *r.Spec.ExpirationSeconds}}
	if errs := authenticationvalidation.ValidateTokenRequest(internal); len(errs) > 0 {
		return nil, apierrors.NewInvalid(authentication.Kind("TokenRequest"), "", errs)
	}
	account, ok := view.Get[*corev1.ServiceAccount](v, namespace, name)
	if !ok {
		return nil, apierrors.NewNotFound(kinds.For[*corev1.ServiceAccount]().GroupResource(), name)
	}
	pod, err := rights.TokenPod(identityOf(ctx).Node, v, account, &r.Spec)
	if err != nil {
		a := rights.Access{Verb: "create", Resource: "serviceaccounts", Subresource: "token", Namespace: namespace, Name: name}
		return nil, forbiddenError(identityOf(ctx), a, err.Error())
	}
	if len(r.Spec.Audiences) == 0 {
		r.Spec.Audiences = []string{t.accounts.Audience()}
	}
	node, _ := view.Get[*corev1.Node](v, "", pod.Spec.NodeName)
	now := t.now()
	token, err := t.accounts.Issue(ctx, accounts.Bound{Account: account, Pod: pod, Node: node}, r.Spec.Audiences,
		*r.Spec.ExpirationSeconds)
	if err != nil {
		return nil, err
	}
	r.Namespace, r.Name, r.UID, r.CreationTimestamp = namespace, name, account.UID, metav1.NewTime(now)
	r.Status = authenticationv1.TokenRequestStatus{
		Token:               token,
		ExpirationTimestamp: metav1.NewTime(now.Add(time.Duration(*r.Spec.ExpirationSeconds) * time.Second)),
	}
	return r, nil
}

// tokenHandler makes tokens of service accounts.
func (s *server) tokenHandler() (route, http.Handler) {
	gvr := kinds.For[*corev1.ServiceAccount]().GroupVersionResource()
	scope := scopeFor(authenticationv1.SchemeGroupVersion.WithKind("TokenRequest"), gvr, false)
	scope.Subresource, scope.MaxRequestBodyBytes = "token", maxNote
	return route{gvr: gvr, subresource: "token", verb: "create"}, handlers.CreateNamedResource(tokenRequests{s}, scope, nil)
}

// issuer tells who signs tokens of service accounts, and by which keys.
func (s *server) issuer(mux *http.ServeMux) {
	serve := func(path, contentType string, body func() []byte) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			w.Header().Set("Cache-Control", fmt.Sprintf("public, max-age=%d", keysAge))
			_, _ = w.Write(body())
		})
	}
	serve(accounts.ConfigPath, "application/json", s.accounts.Config)
	serve(accounts.KeysPath, "application/jwk-set+json", s.accounts.Keys)
}

// byAccount finds whose token of a service account it is; otherwise the error matches accounts.ErrToken.
func (s *server) byAccount(ctx context.Context, token string) (identity, error) {
	known, err := s.accounts.Read(ctx, token)
	if err != nil {
		return identity{}, err
	}
	id := identify(known.User.Name, known.User.Groups)
	id.User.UID, id.User.Extra = known.User.UID, known.User.Extra
	id.until, id.credential = known.Until, podCredential(accounts.PodUID(known.User))
	id.holds = func(v *view.View) bool { return accounts.Holds(v, known.User) }
	return id, nil
}

// podCredential is what the budgets of a pod's tokens are kept by.
func podCredential(uid string) string { return "pod/" + uid }

// reviewAccount says whose a service account's token is, and for which of the audiences that are asked for.
func (s *server) reviewAccount(ctx context.Context, token string, audiences []string) authenticationv1.TokenReviewStatus {
	known, err := s.accounts.Read(ctx, token, audiences...)
	if err != nil {
		return authenticationv1.TokenReviewStatus{Error: "invalid bearer token"}
	}
	known.User.Groups = append(known.User.Groups, user.AllAuthenticated)
	return authenticationv1.TokenReviewStatus{Authenticated: true, User: userInfo(known.User), Audiences: known.Audiences}
}
