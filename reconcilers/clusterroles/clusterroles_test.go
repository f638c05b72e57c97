package clusterroles

import (
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/kinds/roles"
	"lockstep/store/view"
)

// TestKeep: what every cluster has is made where it is not there, and mended where it grants something else.
func TestKeep(t *testing.T) {
	all := roles.Defaults()
	if d := keep(view.Of()); len(d.Wants) != len(all) {
		t.Errorf("a new cluster gets %d of %d", len(d.Wants), len(all))
	}
	if d := keep(view.Of(all...)); len(d.Wants) != 0 {
		t.Errorf("nothing is missing, and %d are written", len(d.Wants))
	}
	for i, o := range all {
		changed := o.DeepCopyObject().(kinds.Object)
		aggregated := false
		switch c := changed.(type) {
		case *rbacv1.ClusterRole:
			aggregated = c.AggregationRule != nil
			c.Rules = append(c.Rules, rbacv1.PolicyRule{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}})
			c.Labels["mine"] = "kept"
		case *rbacv1.ClusterRoleBinding:
			c.Subjects = append(c.Subjects, rbacv1.Subject{Kind: "User", Name: "eve", APIGroup: rbacv1.GroupName})
		}
		others := append([]kinds.Object{changed}, all[:i]...)
		d := keep(view.Of(append(others, all[i+1:]...)...))
		switch {
		case aggregated && len(d.Wants) != 0:
			t.Errorf("%v: its rules are the other loop's", kinds.KeyOf(o))
		case aggregated:
		case len(d.Wants) != 1 || !roles.Grants(d.Wants[0].Object, o):
			t.Errorf("%v grants more: %+v", kinds.KeyOf(o), d.Wants)
		}
	}
}

// TestCollectors: a role that changes wakes those that collect its rules.
func TestCollectors(t *testing.T) {
	named := func(name, label string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Name: name, Labels: map[string]string{label: "true"}}
	}
	collects := func(label string) *rbacv1.AggregationRule {
		return &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{label: "true"}}}}
	}
	one, both := &rbacv1.ClusterRole{ObjectMeta: named("one", "to-both"), AggregationRule: collects("to-one")},
		&rbacv1.ClusterRole{ObjectMeta: named("both", "x"), AggregationRule: collects("to-both")}
	v := view.Of(one, both)
	for label, want := range map[string]string{"to-one": "one", "to-both": "both"} {
		keys := collectors(v, &rbacv1.ClusterRole{ObjectMeta: named("new", label)})
		if len(keys) != 1 || keys[0].Name != want {
			t.Errorf("%s wakes %v, want %s", label, keys, want)
		}
	}
	if keys := collectors(v, &rbacv1.ClusterRole{ObjectMeta: named("new", "other")}); len(keys) != 0 {
		t.Errorf("what nobody selects wakes %v", keys)
	}
}
