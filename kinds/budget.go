package kinds

import (
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// BudgetsShare is the condition of a PodDisruptionBudget that shares a pod with another one, of which Kubernetes could then evict
// no pod; it is also the reason of its event.
const BudgetsShare = "MultiplePodDisruptionBudgets"

// budgetReads is what tells whether pods that nothing controls any more are on their way out.
func budgetReads() []Read {
	return []Read{{core().WithKind("Pod"), func(old, new Object) bool {
		return old == nil || new == nil || old.GetDeletionTimestamp().IsZero() != new.GetDeletionTimestamp().IsZero()
	}}}
}

// budgetHealth: what it allows is known, and no pod has another one. Of pods whose controller goes it cannot be known until they
// have ended.
func budgetHealth(b *policyv1.PodDisruptionBudget, see Sight) Health {
	if b.Status.ObservedGeneration < b.Generation {
		return Health{Cause: "not looked at yet"}
	}
	allowed := meta.FindStatusCondition(b.Status.Conditions, policyv1.DisruptionAllowedCondition)
	if allowed != nil && allowed.Reason == policyv1.SyncFailedReason {
		if !holdsLasting(b, see) {
			return Health{Cause: "its last pods end"}
		}
		return Health{State: Failed, Cause: allowed.Reason + ": " + allowed.Message}
	}
	if shared := meta.FindStatusCondition(b.Status.Conditions, BudgetsShare); shared != nil {
		return Health{State: Failed, Cause: shared.Message}
	}
	return Health{State: Healthy}
}

// holdsLasting says that a budget selects a pod that nobody deletes, or that its pods cannot be told.
func holdsLasting(b *policyv1.PodDisruptionBudget, see Sight) bool {
	selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil {
		return true
	}
	selected := false
	for p := range pods(see.List(schema.GroupResource{Resource: "pods"}, b.Namespace)) {
		if !selector.Matches(labels.Set(p.Labels)) {
			continue
		}
		if p.DeletionTimestamp == nil {
			return true
		}
		selected = true
	}
	return !selected
}
