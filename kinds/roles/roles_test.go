package roles

import (
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"lockstep/kinds"
)

// TestDefaults: Kubernetes has all that is named here, and what a role collects is in it from the start, so that nobody has to
// write it again.
func TestDefaults(t *testing.T) {
	var all []*rbacv1.ClusterRole
	bindings := 0
	for _, o := range Defaults() {
		if !Default(kinds.KeyOf(o)) {
			t.Errorf("%v is made, and not kept", kinds.KeyOf(o))
		}
		switch o := o.(type) {
		case *rbacv1.ClusterRole:
			all = append(all, o)
		case *rbacv1.ClusterRoleBinding:
			bindings++
			if !slices.Contains(clusterRoles(), o.RoleRef.Name) {
				t.Errorf("%s binds %s, which is not there", o.Name, o.RoleRef.Name)
			}
		}
	}
	if len(all) != len(clusterRoles()) || bindings != len(clusterRoleBindings()) {
		t.Errorf("%d roles of %d, %d bindings of %d", len(all), len(clusterRoles()), bindings, len(clusterRoleBindings()))
	}
	slices.SortFunc(all, func(a, b *rbacv1.ClusterRole) int { return strings.Compare(a.Name, b.Name) })
	rules := map[string]int{}
	for _, role := range all {
		rules[role.Name] = len(role.Rules)
		if role.AggregationRule == nil {
			continue
		}
		if got, err := Aggregated(role, slices.Values(all)); err != nil || !equality.Semantic.DeepEqual(got, role.Rules) {
			t.Errorf("%s is made with %d rules, and collects %d, %v", role.Name, len(role.Rules), len(got), err)
		}
	}
	if rules["view"] == 0 || rules["edit"] <= rules["view"] || rules["admin"] <= rules["edit"] {
		t.Errorf("rules of view, edit and admin: %d, %d, %d", rules["view"], rules["edit"], rules["admin"])
	}
}
