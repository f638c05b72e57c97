// Package roles has the roles and bindings of every cluster, and what a role collects from others.
package roles

import (
	"iter"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"

	"lockstep/kinds"
)

// clusterRoles are Kubernetes' own that somebody can be who is granted them here: its controllers, scheduler and proxy are parts
// of Lockstep, which ask nobody, and certificates are signed for nodes alone.
func clusterRoles() []string {
	return []string{
		"cluster-admin", "admin", "edit", "view", "system:aggregate-to-admin", "system:aggregate-to-edit", "system:aggregate-to-view",
		"system:discovery", "system:basic-user", "system:public-info-viewer", "system:service-account-issuer-discovery",
		"system:monitoring", "system:auth-delegator", "system:node", "system:node-problem-detector", "system:kubelet-api-admin",
	}
}

func clusterRoleBindings() []string {
	return []string{
		"cluster-admin", "system:discovery", "system:basic-user", "system:public-info-viewer",
		"system:service-account-issuer-discovery", "system:monitoring", "system:node",
	}
}

// Default says that every cluster has the object.
func Default(k kinds.Key) bool {
	switch kinds.ForResource(k.GroupResource()) {
	case kinds.For[*rbacv1.ClusterRole]():
		return slices.Contains(clusterRoles(), k.Name)
	case kinds.For[*rbacv1.ClusterRoleBinding]():
		return slices.Contains(clusterRoleBindings(), k.Name)
	}
	return false
}

// Defaults returns the roles and bindings that every cluster has, as Kubernetes' API server makes them at its start; what roles
// collect from each other is filled in.
func Defaults() []kinds.Object {
	var out []kinds.Object
	var all []*rbacv1.ClusterRole
	for _, role := range bootstrappolicy.ClusterRoles() {
		if slices.Contains(clusterRoles(), role.Name) {
			all = append(all, &role)
		}
	}
	slices.SortFunc(all, func(a, b *rbacv1.ClusterRole) int { return strings.Compare(a.Name, b.Name) })
	// Each takes from those behind it: admin from edit, edit from view.
	for i, role := range slices.Backward(all) {
		if role.AggregationRule != nil {
			all[i].Rules, _ = Aggregated(role, slices.Values(all))
		}
	}
	for _, role := range all {
		out = append(out, role)
	}
	for _, binding := range bootstrappolicy.ClusterRoleBindings() {
		if slices.Contains(clusterRoleBindings(), binding.Name) {
			out = append(out, &binding)
		}
	}
	return out
}

// Aggregated returns the rules of all others that a role's aggregation rule selects, each rule once: selector for selector, and
// of each the roles in the order given, which is that of their names (k8s.io/kubernetes/pkg/controller/clusterroleaggregation). What
// they have in common with the others is shared. The error is of a selector that cannot be read, which validation refuses.
func Aggregated(role *rbacv1.ClusterRole, all iter.Seq[*rbacv1.ClusterRole]) ([]rbacv1.PolicyRule, error) {
	var rules []rbacv1.PolicyRule
	if role.AggregationRule == nil {
		return nil, nil
	}
	for i := range role.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&role.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			return nil, err
		}
		for other := range all {
			if other.Name == role.Name || !selector.Matches(labels.Set(other.Labels)) {
				continue
			}
			for _, rule := range other.Rules {
				if !slices.ContainsFunc(rules, func(r rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(r, rule) }) {
					rules = append(rules, rule)
				}
			}
		}
	}
	return rules, nil
}

// Collects says that a role may take rules from another one.
func Collects(role, from *rbacv1.ClusterRole) bool {
	return len(Collected(role, []*rbacv1.ClusterRole{from})) > 0
}

// Collected are the places in a list of those that a role may take rules from.
func Collected(role *rbacv1.ClusterRole, list []*rbacv1.ClusterRole) (places []int) {
	if role.AggregationRule == nil {
		return nil
	}
	var selectors []labels.Selector
	for i := range role.AggregationRule.ClusterRoleSelectors {
		if s, err := metav1.LabelSelectorAsSelector(&role.AggregationRule.ClusterRoleSelectors[i]); err == nil {
			selectors = append(selectors, s)
		}
	}
	for i, from := range list {
		if slices.ContainsFunc(selectors, func(s labels.Selector) bool { return s.Matches(labels.Set(from.Labels)) }) {
			places = append(places, i)
		}
	}
	return places
}

// Grants says that an object grants what a default one of its name does, and to the same; rules that are collected from others are
// not looked at.
func Grants(o, want kinds.Object) bool {
	switch want := want.(type) {
	case *rbacv1.ClusterRole:
		role := o.(*rbacv1.ClusterRole)
		return equality.Semantic.DeepEqual(role.AggregationRule, want.AggregationRule) &&
			(want.AggregationRule != nil || equality.Semantic.DeepEqual(role.Rules, want.Rules))
	case *rbacv1.ClusterRoleBinding:
		binding := o.(*rbacv1.ClusterRoleBinding)
		return binding.RoleRef == want.RoleRef && equality.Semantic.DeepEqual(binding.Subjects, want.Subjects)
	}
	return false
}

// Restored returns what a default object is to be: nil where the live one is so already. Rules that are collected from others are
// left as they are, and so are labels and annotations of others.
func Restored(live, want kinds.Object) kinds.Object {
	changed := live.DeepCopyObject().(kinds.Object)
	changed.SetLabels(with(changed.GetLabels(), want.GetLabels()))
	changed.SetAnnotations(with(changed.GetAnnotations(), want.GetAnnotations()))
	switch want := want.(type) {
	case *rbacv1.ClusterRole:
		role := changed.(*rbacv1.ClusterRole)
		role.AggregationRule = want.AggregationRule
		if want.AggregationRule == nil {
			role.Rules = want.Rules
		}
	case *rbacv1.ClusterRoleBinding:
		changed.(*rbacv1.ClusterRoleBinding).Subjects = want.Subjects
	}
	if equality.Semantic.DeepEqual(changed, live) {
		return nil
	}
	return changed
}

// with adds to what is stated.
func with(have, want map[string]string) map[string]string {
	for key, value := range want {
		if have == nil {
			have = map[string]string{}
		}
		have[key] = value
	}
	return have
}
