package kinds

import (
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
)

// BudgetsShare is the condition of a PodDisruptionBudget that shares a pod with another one, of which Kubernetes could then evict
// no pod; it is also the reason of its event.
const BudgetsShare = "MultiplePodDisruptionBudgets"

// budgetHealth: what it allows is known, and no pod has another one.
func budgetHealth(b *policyv1.PodDisruptionBudget, _ Sight) Health {
	if b.Status.ObservedGeneration < b.Generation {
		return Health{Cause: "not looked at yet"}
	}
	allowed := meta.FindStatusCondition(b.Status.Conditions, policyv1.DisruptionAllowedCondition)
	if allowed != nil && allowed.Reason == policyv1.SyncFailedReason {
		return Health{State: Failed, Cause: allowed.Reason + ": " + allowed.Message}
	}
	if shared := meta.FindStatusCondition(b.Status.Conditions, BudgetsShare); shared != nil {
		return Health{State: Failed, Cause: shared.Message}
	}
	return Health{State: Healthy}
}
