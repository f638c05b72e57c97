package rights

import (
	"context"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac"

	"lockstep/kinds"
)

// Rules are what bindings grant somebody in a namespace, as far as it may be done at all: what is read, what is asked, and what
// programs write. The evaluation error names roles that bindings name and that are not there.
func (p *Policy) Rules(who Subject, namespace string) authorizationv1.SubjectRulesReviewStatus {
	b := bound{p, &who.User}
	resources, paths, _, err := rbac.New(b, b, b, b).RulesFor(context.Background(), &who.User, namespace)
	out := authorizationv1.SubjectRulesReviewStatus{
		ResourceRules: []authorizationv1.ResourceRule{}, NonResourceRules: []authorizationv1.NonResourceRule{},
	}
	for _, r := range resources {
		if verbs := among(r.GetVerbs(), reading()...); len(verbs) > 0 {
			out.ResourceRules = append(out.ResourceRules, authorizationv1.ResourceRule{
				Verbs: verbs, APIGroups: r.GetAPIGroups(), Resources: r.GetResources(), ResourceNames: r.GetResourceNames(),
			})
		}
		out.ResourceRules = append(append(out.ResourceRules, asking(r)...), tokens(r)...)
		if who.Role == Account {
			out.ResourceRules = append(out.ResourceRules, writing(r)...)
		}
	}
	for _, r := range paths {
		if verbs := among(r.GetVerbs(), "get", "head"); len(verbs) > 0 {
			out.NonResourceRules = append(out.NonResourceRules, authorizationv1.NonResourceRule{
				Verbs: verbs, NonResourceURLs: r.GetNonResourceURLs(),
			})
		}
	}
	if err != nil {
		out.EvaluationError = err.Error()
	}
	return out
}

// asking are the questions that a rule grants.
func asking(r authorizer.ResourceRuleInfo) (out []authorizationv1.ResourceRule) {
	if len(among(r.GetVerbs(), "create")) == 0 || len(r.GetResourceNames()) > 0 {
		return nil
	}
	for _, review := range reviews() {
		if len(among(r.GetAPIGroups(), review.Group)) > 0 && len(among(r.GetResources(), review.Resource)) > 0 {
			out = append(out, authorizationv1.ResourceRule{
				Verbs: []string{"create"}, APIGroups: []string{review.Group}, Resources: []string{review.Resource},
			})
		}
	}
	return out
}

// tokens is the asking for tokens of service accounts that a rule grants.
func tokens(r authorizer.ResourceRuleInfo) []authorizationv1.ResourceRule {
	const what = "serviceaccounts/token"
	if len(among(r.GetVerbs(), "create")) == 0 || len(among(r.GetAPIGroups(), "")) == 0 ||
		len(among(r.GetResources(), what, "*/token")) == 0 {
		return nil
	}
	return []authorizationv1.ResourceRule{{
		Verbs: []string{"create"}, APIGroups: []string{""}, Resources: []string{what}, ResourceNames: r.GetResourceNames(),
	}}
}

// writing are the writes of programs that a rule grants.
func writing(r authorizer.ResourceRuleInfo) (out []authorizationv1.ResourceRule) {
	for _, k := range kinds.Served() {
		for _, sub := range Subresources() {
			what, star := strings.TrimSuffix(k.Resource+"/"+sub, "/"), "*/"+sub
			if sub == "" {
				star = rbacv1.ResourceAll
			}
			verbs := among(r.GetVerbs(), Verbs(k.GroupResource(), sub)...)
			if len(verbs) > 0 && len(among(r.GetAPIGroups(), k.Group)) > 0 && len(among(r.GetResources(), what, star)) > 0 {
				out = append(out, authorizationv1.ResourceRule{
					Verbs: verbs, APIGroups: []string{k.Group}, Resources: []string{what}, ResourceNames: r.GetResourceNames(),
				})
			}
		}
	}
	return out
}

// among are those that a rule's list has; a star is all.
func among(list []string, those ...string) (out []string) {
	for _, one := range those {
		if slices.Contains(list, one) || slices.Contains(list, rbacv1.VerbAll) {
			out = append(out, one)
		}
	}
	return out
}
