// Package clusterroles keeps the roles that every cluster has, and gives roles the rules that they collect from others.
package clusterroles

import (
	"fmt"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"lockstep/kinds"
	"lockstep/kinds/roles"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// collected is why the two loops share a field.
const collected = "the loop that keeps roles leaves the rules of those alone that collect them"

// Defaults returns the reconciler of the roles and bindings that every cluster has.
func Defaults() loop.Reconciler {
	return loop.Reconciler{
		Name:      "clusterroles",
		Component: "clusterrole-controller",
		Single:    true,
		Reads: []loop.Read{
			{Kind: kinds.For[*rbacv1.ClusterRole](), How: "one that every cluster has", Keys: kept},
			{Kind: kinds.For[*rbacv1.ClusterRoleBinding](), How: "one that every cluster has", Keys: kept},
		},
		Writes: []loop.Write{
			{
				Kind: kinds.For[*rbacv1.ClusterRole](), Create: true,
				Fields: []string{"rules", "aggregationRule", "metadata.labels", "metadata.annotations"},
				Shared: map[string]string{"rules": collected},
			},
			{
				Kind: kinds.For[*rbacv1.ClusterRoleBinding](), Create: true,
				Fields: []string{"subjects", "metadata.labels", "metadata.annotations"},
			},
		},
		Decide: func(v *view.View, _ kinds.Key, _ time.Time) (loop.Decision, error) { return keep(v), nil },
	}
}

func kept(_ *view.View, o kinds.Object) []kinds.Key {
	if !roles.Default(kinds.KeyOf(o)) {
		return nil
	}
	return []kinds.Key{loop.ClusterKey()}
}

func keep(v *view.View) loop.Decision {
	var d loop.Decision
	for _, want := range roles.Defaults() {
		live := v.Get(kinds.KeyOf(want))
		if live == nil {
			d.Wants = append(d.Wants, loop.Want{Object: want, Reason: "every cluster has it"})
		} else if changed := roles.Restored(live, want); changed != nil {
			d.Wants = append(d.Wants, loop.Want{Object: changed, Reason: "differs from what it is in every cluster"})
		}
	}
	return d
}

// Aggregation returns the reconciler of ClusterRoles with an aggregation rule, Kubernetes' clusterrole-aggregation-controller.
func Aggregation() loop.Reconciler {
	return loop.Reconciler{
		Name:      "aggregation",
		Component: "clusterrole-aggregation-controller",
		Owner:     kinds.For[*rbacv1.ClusterRole](),
		Reads: []loop.Read{{
			Kind: kinds.For[*rbacv1.ClusterRole](),
			How:  "those that collect its rules",
			Keys: collectors,
		}},
		Writes: []loop.Write{{
			Kind: kinds.For[*rbacv1.ClusterRole](), Fields: []string{"rules"}, Shared: map[string]string{"rules": collected},
		}},
		Decide: func(v *view.View, key kinds.Key, _ time.Time) (loop.Decision, error) { return aggregate(v, key) },
	}
}

func collectors(v *view.View, o kinds.Object) []kinds.Key {
	from := o.(*rbacv1.ClusterRole)
	var keys []kinds.Key
	for role := range view.List[*rbacv1.ClusterRole](v, "") {
		if role.Name != from.Name && roles.Collects(role, from) {
			keys = append(keys, kinds.KeyOf(role))
		}
	}
	return keys
}

func aggregate(v *view.View, key kinds.Key) (loop.Decision, error) {
	role, ok := v.Get(key).(*rbacv1.ClusterRole)
	if !ok || role.DeletionTimestamp != nil || role.AggregationRule == nil {
		return loop.Decision{}, nil
	}
	rules, err := roles.Aggregated(role, view.List[*rbacv1.ClusterRole](v, ""))
	if err != nil {
		return loop.Decision{}, loop.Stall(fmt.Errorf("cannot read the selectors of %v: %w", key, err))
	}
	if equality.Semantic.DeepEqual(rules, role.Rules) {
		return loop.Decision{}, nil
	}
	changed := role.DeepCopy()
	changed.Rules = rules
	return loop.Decision{Wants: []loop.Want{{Object: changed, Reason: "the rules of the roles that it selects differ"}}}, nil
}
