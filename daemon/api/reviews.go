package api

import (
	"context"
	"errors"
	"net/http"
	"slices"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/handlers"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/apis/authorization"
	authorizationconversion "k8s.io/kubernetes/pkg/apis/authorization/v1"
	authorizationvalidation "k8s.io/kubernetes/pkg/apis/authorization/validation"

	"lockstep/daemon/api/accounts"
	"lockstep/daemon/pki"
	"lockstep/daemon/rights"
)

// review is a question that is asked by creating it; nothing is stored.
type review struct {
	gvk        schema.GroupVersionKind
	resource   string
	namespaced bool
	answer     func(ctx context.Context, o runtime.Object) (runtime.Object, error)
}

var _ rest.Creater = (*review)(nil)

// New implements rest.Creater.
func (r *review) New() runtime.Object {
	o, err := scheme.New(r.gvk)
	if err != nil {
		panic("api: a review's kind is a constant and must be known: " + err.Error())
	}
	return o
}

// Create implements rest.Creater.
func (r *review) Create(ctx context.Context, o runtime.Object, _ rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	return r.answer(ctx, o)
}

func (s *server) reviewTable() []*review {
	mayDo, whoIs := authorizationv1.SchemeGroupVersion, authenticationv1.SchemeGroupVersion
	return []*review{
		{mayDo.WithKind("SelfSubjectAccessReview"), "selfsubjectaccessreviews", false, s.reviewAccess},
		{mayDo.WithKind("SelfSubjectRulesReview"), "selfsubjectrulesreviews", false, s.reviewRules},
		{mayDo.WithKind("SubjectAccessReview"), "subjectaccessreviews", false, s.reviewSubject},
		{mayDo.WithKind("LocalSubjectAccessReview"), "localsubjectaccessreviews", true, s.reviewLocalSubject},
		{whoIs.WithKind("SelfSubjectReview"), "selfsubjectreviews", false, reviewSelf},
		{whoIs.WithKind("TokenReview"), "tokenreviews", false, s.reviewToken},
	}
}

func (s *server) reviews() map[route]http.Handler {
	out := map[route]http.Handler{}
	for _, r := range s.reviewTable() {
		gvr := r.gvk.GroupVersion().WithResource(r.resource)
		scope := scopeFor(r.gvk, gvr, !r.namespaced) // without a table: an answer is no list of things, 406 as in Kubernetes
		scope.MaxRequestBodyBytes = maxReview
		out[route{gvr: gvr, verb: "create"}] = handlers.CreateResource(r, scope, nil)
	}
	return out
}

// reviewAccess answers "may I".
func (s *server) reviewAccess(ctx context.Context, o runtime.Object) (runtime.Object, error) {
	r := o.(*authorizationv1.SelfSubjectAccessReview)
	var err error
	r.Status, err = s.mayDo(identityOf(ctx).Subject, r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
	return r, err
}

// reviewSubject answers "may they", of somebody who is named with all their groups.
func (s *server) reviewSubject(_ context.Context, o runtime.Object) (runtime.Object, error) {
	r := o.(*authorizationv1.SubjectAccessReview)
	spec, err := internalSpec(r.Spec)
	if err != nil {
		return nil, err
	}
	internal := &authorization.SubjectAccessReview{ObjectMeta: r.ObjectMeta, Spec: spec}
	if errs := authorizationvalidation.ValidateSubjectAccessReview(internal); len(errs) > 0 {
		return nil, apierrors.NewInvalid(authorization.Kind(r.Kind), "", errs)
	}
	r.Status, err = s.mayDo(subject(r.Spec.User, r.Spec.Groups), r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
	return r, err
}

// reviewLocalSubject is reviewSubject within one namespace.
func (s *server) reviewLocalSubject(_ context.Context, o runtime.Object) (runtime.Object, error) {
	r := o.(*authorizationv1.LocalSubjectAccessReview)
	spec, err := internalSpec(r.Spec)
	if err != nil {
		return nil, err
	}
	internal := &authorization.LocalSubjectAccessReview{ObjectMeta: r.ObjectMeta, Spec: spec}
	if errs := authorizationvalidation.ValidateLocalSubjectAccessReview(internal); len(errs) > 0 {
		return nil, apierrors.NewInvalid(authorization.Kind(r.Kind), "", errs)
	}
	r.Status, err = s.mayDo(subject(r.Spec.User, r.Spec.Groups), r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
	return r, err
}

// internalSpec is what Kubernetes' validation reads.
func internalSpec(in authorizationv1.SubjectAccessReviewSpec) (out authorization.SubjectAccessReviewSpec, err error) {
	err = authorizationconversion.Convert_v1_SubjectAccessReviewSpec_To_authorization_SubjectAccessReviewSpec(&in, &out, nil)
	return out, err
}

// mayDo answers by the same function that judges the request itself.
func (s *server) mayDo(who rights.Subject, res *authorizationv1.ResourceAttributes,
	path *authorizationv1.NonResourceAttributes) (authorizationv1.SubjectAccessReviewStatus, error) {
	var a rights.Access
	switch {
	case res != nil && path == nil:
		a = rights.Access{
			Verb: res.Verb, Group: res.Group, Resource: res.Resource, Subresource: res.Subresource,
			Namespace: res.Namespace, Name: res.Name, Fields: selectorOf(res.FieldSelector),
		}
	case path != nil && res == nil:
		a = rights.Access{Verb: path.Verb, Path: path.Path}
	default:
		return authorizationv1.SubjectAccessReviewStatus{},
			apierrors.NewBadRequest("exactly one of nonResourceAttributes or resourceAttributes must be specified")
	}
	v := s.hub.View()
	verdict, why := s.decide(who, a, v)
	if verdict == rights.NotThisWay {
		why = statusOf(s.refusal(v, a, why)).Message
	}
	return authorizationv1.SubjectAccessReviewStatus{Allowed: verdict == rights.Allowed, Reason: why}, nil
}

func selectorOf(attributes *authorizationv1.FieldSelectorAttributes) fields.Selector {
	if attributes == nil {
		return nil
	}
	if attributes.RawSelector != "" {
		selector, err := fields.ParseSelector(attributes.RawSelector)
		if err != nil {
			return nil
		}
		return selector
	}
	out := fields.Everything()
	for _, r := range attributes.Requirements {
		if r.Operator == metav1.FieldSelectorOperator(selection.In) && len(r.Values) == 1 {
			out = fields.AndSelectors(out, fields.OneTermEqualSelector(r.Key, r.Values[0]))
		}
	}
	return out
}

// reviewRules lists what may be asked, read and written in a namespace, as far as rules can say it.
func (s *server) reviewRules(ctx context.Context, o runtime.Object) (runtime.Object, error) {
	r, id := o.(*authorizationv1.SelfSubjectRulesReview), identityOf(ctx)
	if r.Spec.Namespace == "" {
		return nil, apierrors.NewBadRequest("no namespace on request")
	}
	if id.Role == rights.Node {
		r.Status = s.nodeRules(id)
	} else {
		r.Status = s.policies.of(s.hub.View()).Rules(id.Subject, r.Spec.Namespace)
	}
	return r, nil
}

// nodeRules are what nodes may read whichever pods are bound to them; what depends on those no rule can say.
func (s *server) nodeRules(id identity) authorizationv1.SubjectRulesReviewStatus {
	out := authorizationv1.SubjectRulesReviewStatus{
		NonResourceRules: []authorizationv1.NonResourceRule{{Verbs: []string{"get"}, NonResourceURLs: []string{"*"}}},
		Incomplete:       true,
	}
	for _, review := range s.reviewTable() {
		out.ResourceRules = append(out.ResourceRules, authorizationv1.ResourceRule{
			Verbs: []string{"create"}, APIGroups: []string{review.gvk.Group}, Resources: []string{review.resource}})
	}
	for _, k := range served() {
		verdict, _ := s.decide(id.Subject, rights.Access{Verb: "list", Group: k.Group, Resource: k.Resource}, s.hub.View())
		if verdict == rights.Allowed {
			out.ResourceRules = append(out.ResourceRules, authorizationv1.ResourceRule{
				Verbs: []string{"get", "list", "watch"}, APIGroups: []string{k.Group}, Resources: []string{k.Resource}})
		}
	}
	return out
}

func reviewSelf(ctx context.Context, o runtime.Object) (runtime.Object, error) {
	r := o.(*authenticationv1.SelfSubjectReview)
	r.Status.UserInfo = userInfo(identityOf(ctx).User)
	return r, nil
}

// reviewToken says whose a person's or a service account's token is. A person's is for the API alone: whoever asks about another
// audience is to let nobody in by it.
func (s *server) reviewToken(ctx context.Context, o runtime.Object) (runtime.Object, error) {
	r := o.(*authenticationv1.TokenReview)
	token := r.Spec.Token
	r.Spec.Token = ""
	if token == "" {
		return nil, apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	if accounts.Ours(token) {
		r.Status = s.reviewAccount(ctx, token, r.Spec.Audiences)
		return r, nil
	}
	id, err := s.byToken(ctx, token)
	audience := s.accounts.Audience()
	switch {
	case err == nil && len(r.Spec.Audiences) > 0 && !slices.Contains(r.Spec.Audiences, audience):
	case errors.Is(err, pki.ErrToken):
		r.Status.Error = "invalid bearer token"
	case err != nil:
		return nil, err
	default:
		r.Status.Authenticated, r.Status.User, r.Status.Audiences = true, userInfo(id.User), []string{audience}
	}
	return r, nil
}

func userInfo(u user.DefaultInfo) authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{Username: u.Name, UID: u.UID, Groups: u.Groups}
	for key, values := range u.Extra {
		if info.Extra == nil {
			info.Extra = map[string]authenticationv1.ExtraValue{}
		}
		info.Extra[key] = values
	}
	return info
}
