package health

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/store/view"
)

// TestBudgets: a budget is healthy once it is known what it allows, which may be nothing.
func TestBudgets(t *testing.T) {
	condition := func(kind, reason, message string) metav1.Condition {
		return metav1.Condition{Type: kind, Reason: reason, Message: message}
	}
	insufficient := condition(policyv1.DisruptionAllowedCondition, policyv1.InsufficientPodsReason, "")
	for _, c := range []struct {
		observed   int64
		conditions []metav1.Condition
		state      kinds.State
		want       string
	}{
		{1, nil, kinds.Progressing, "not looked at yet"},
		{2, []metav1.Condition{insufficient}, kinds.Healthy, ""},
		{2, []metav1.Condition{condition(policyv1.DisruptionAllowedCondition, policyv1.SyncFailedReason, "no scale")},
			kinds.Failed, "SyncFailed: no scale"},
		{2, []metav1.Condition{insufficient, condition(kinds.BudgetsShare, kinds.BudgetsShare, "matches: a, b")},
			kinds.Failed, "matches: a, b"},
	} {
		b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", Generation: 2}}
		b.Status = policyv1.PodDisruptionBudgetStatus{ObservedGeneration: c.observed, Conditions: c.conditions}
		h := At(seen(view.Of(b), kinds.KeyOf(b)), now).Of(kinds.KeyOf(b))
		if h.Cause != c.want || h.State != c.state {
			t.Errorf("%+v: %+v, want %v %q", b.Status, h, c.state, c.want)
		}
	}
}

// TestBudgetOfEndingPods: what no controller accounts for any more is no fault while it ends.
func TestBudgetOfEndingPods(t *testing.T) {
	b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", Generation: 1}}
	b.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	b.Status = policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, Conditions: []metav1.Condition{{
		Type: policyv1.DisruptionAllowedCondition, Reason: policyv1.SyncFailedReason, Message: "found no controllers for pod \"a\"",
	}}}
	a := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "a", Labels: map[string]string{"app": "web"}}}
	of := func(objects ...kinds.Object) kinds.Health {
		return At(seen(view.Of(append(objects, b)...), kinds.KeyOf(b)), now).Of(kinds.KeyOf(b))
	}
	if h := of(a); h.State != kinds.Failed {
		t.Errorf("of a pod that lasts: %+v", h)
	}
	a.DeletionTimestamp = &metav1.Time{Time: now}
	if h := of(a); h.State != kinds.Progressing || h.Cause != "its last pods end" {
		t.Errorf("of a pod that ends: %+v", h)
	}
	if h := of(); h.State != kinds.Failed {
		t.Errorf("of no pods: %+v", h)
	}
}
