package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apischema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/handlers"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/apis/authentication"
	authenticationconversion "k8s.io/kubernetes/pkg/apis/authentication/v1"
	authenticationvalidation "k8s.io/kubernetes/pkg/apis/authentication/validation"

	"lockstep/daemon/api/accounts"
	"lockstep/daemon/pki"
	"lockstep/daemon/rights"
	"lockstep/kinds"
	"lockstep/store/view"
)

const (
	// defaultTokenSeconds is how long a token holds that names no time, as in Kubernetes.
	defaultTokenSeconds = 60 * 60
	// maxTokenSeconds is how long one holds at most, whatever it names: as a viewer's credential. Kubernetes bounds it as its
	// administrator says.
	maxTokenSeconds = int64(pki.ViewerLifetime / time.Second)
)

// keysAge is how long the keys of tokens may be taken for the newest, in seconds, as in Kubernetes.
const keysAge = 60 * 60

// tokenRequests answers with new tokens of a service account. Nothing is stored.
type tokenRequests struct{ *server }

var _ rest.NamedCreater = tokenRequests{}

// New implements rest.NamedCreater.
func (tokenRequests) New() runtime.Object { return &authenticationv1.TokenRequest{} }

// Create implements rest.NamedCreater: for a node, whose right was judged, and a pod of its own; or for whom roles let, as
// Kubernetes does it.
func (t tokenRequests) Create(ctx context.Context, name string, o runtime.Object, _ rest.ValidateObjectFunc,
	_ *metav1.CreateOptions) (runtime.Object, error) {
	r, namespace, id := o.(*authenticationv1.TokenRequest), request.NamespaceValue(ctx), identityOf(ctx)
	if r.Spec.ExpirationSeconds == nil {
		r.Spec.ExpirationSeconds = new(int64(defaultTokenSeconds))
	}
	v, err := t.viewOf(ctx, id)
	if err != nil {
		return nil, err
	}
	account, ok := view.Get[*corev1.ServiceAccount](v, namespace, name)
	if !ok {
		return nil, apierrors.NewNotFound(kinds.For[*corev1.ServiceAccount]().GroupResource(), name)
	}
	if err := fitting(r, account); err != nil {
		return nil, err
	}
	var bound accounts.Bound
	if id.Role == rights.Node {
		bound, err = boundOwn(v, id, account, r)
	} else {
		bound, err = boundAsked(v, account, r.Spec.BoundObjectRef)
	}
	if err != nil {
		return nil, err
	}
	if len(r.Spec.Audiences) == 0 {
		r.Spec.Audiences = []string{t.accounts.Audience()}
	}
	*r.Spec.ExpirationSeconds = min(*r.Spec.ExpirationSeconds, maxTokenSeconds)
	now := t.now()
	token, err := t.accounts.Issue(ctx, bound, r.Spec.Audiences, *r.Spec.ExpirationSeconds)
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

// viewOf is the view that a request for a token is judged by: a node's is about a pod that this server has told it of, somebody
// else's may be about what was made a moment ago.
func (t tokenRequests) viewOf(ctx context.Context, id identity) (*view.View, error) {
	if id.Role == rights.Node {
		return t.store.View(), nil
	}
	rev, err := t.latest(ctx)
	if err != nil {
		return nil, err
	}
	return t.hub.Reach(ctx, rev)
}

// fitting refuses, as Kubernetes does, a request that does not fit its account, or that asks for what there is not.
func fitting(r *authenticationv1.TokenRequest, account *corev1.ServiceAccount) error {
	kind, metadata := authentication.Kind("TokenRequest"), field.NewPath("metadata")
	switch {
	case r.Name != "" && r.Name != account.Name:
		return apierrors.NewInvalid(kind, account.Name, field.ErrorList{
			field.Invalid(metadata.Child("name"), r.Name, "must match the service account name if specified")})
	case r.Namespace != "" && r.Namespace != account.Namespace:
		return apierrors.NewInvalid(kind, account.Name, field.ErrorList{
			field.Invalid(metadata.Child("namespace"), r.Namespace, "must match the service account namespace if specified")})
	}
	internal := &authentication.TokenRequest{}
	err := authenticationconversion.Convert_v1_TokenRequest_To_authentication_TokenRequest(r, internal, nil)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	if errs := authenticationvalidation.ValidateTokenRequest(internal); len(errs) > 0 {
		return apierrors.NewInvalid(kind, "", errs)
	}
	return nil
}

// boundOwn is what a node's token is for.
func boundOwn(v *view.View, id identity, account *corev1.ServiceAccount, r *authenticationv1.TokenRequest) (accounts.Bound, error) {
	pod, err := rights.TokenPod(id.Node, v, account, &r.Spec)
	if err != nil {
		a := rights.Access{
			Verb: "create", Resource: "serviceaccounts", Subresource: "token", Namespace: account.Namespace, Name: account.Name,
		}
		return accounts.Bound{}, forbiddenError(id, a, err.Error())
	}
	node, _ := view.Get[*corev1.Node](v, "", pod.Spec.NodeName)
	return accounts.Bound{Account: account, Pod: pod, Node: node}, nil
}

// boundAsked is what a token is for that somebody asks for whom roles let, in Kubernetes' words where it cannot be.
func boundAsked(v *view.View, account *corev1.ServiceAccount, ref *authenticationv1.BoundObjectReference) (accounts.Bound, error) {
	out := accounts.Bound{Account: account}
	if ref == nil {
		return out, nil
	}
	gvk := apischema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	if gvk.Group != "" || !slices.Contains([]string{"Pod", "Node", "Secret"}, gvk.Kind) {
		return out, apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", gvk))
	}
	kind, namespace := kinds.ForGVK(corev1.SchemeGroupVersion.WithKind(gvk.Kind)), account.Namespace
	if !kind.Namespaced {
		namespace = ""
	}
	o := v.Get(kind.Key(namespace, ref.Name))
	switch o := o.(type) {
	case nil:
		return out, apierrors.NewNotFound(kind.GroupResource(), ref.Name)
	case *corev1.Pod:
		if kinds.AccountOf(o) != account.Name {
			return out, apierrors.NewBadRequest(fmt.Sprintf(
				"cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", account.Name))
		}
		out.Pod = o
		out.Node, _ = view.Get[*corev1.Node](v, "", o.Spec.NodeName)
	case *corev1.Node:
		out.Node = o
	case *corev1.Secret:
		out.Secret = o
	}
	if ref.UID != "" && ref.UID != o.GetUID() {
		return out, apierrors.NewConflict(apischema.GroupResource{Group: gvk.Group, Resource: gvk.Kind}, ref.Name,
			fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been "+
				"deleted and then recreated", ref.UID))
	}
	return out, nil
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
	id.until, id.credential, id.holds = known.Until, podCredential(accounts.PodUID(known.User)), known.Holds
	if accounts.PodUID(known.User) == "" {
		id.credential = id.writer()
	}
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
