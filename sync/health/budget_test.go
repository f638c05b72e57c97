package health

import (
	"testing"

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
