package disruption

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/store/view"
)

// Answer says whether a pod may be evicted now. The zero value is none.
type Answer int

// The answers.
const (
	Free    Answer = iota + 1 // it may, and costs no budget anything
	Spends                    // it may, and costs its budget one disruption
	Spent                     // its budget allows no more
	Unseen                    // its budget's status is of what has changed since, and will be another soon
	Several                   // it has more than one budget, which eviction does not know to serve
)

// Budgets are the PodDisruptionBudgets, with what one decision has spent of each.
type Budgets struct {
	view  *view.View
	spent map[kinds.Key]int32
}

// NewBudgets are those of a view, of which nothing is spent yet.
func NewBudgets(v *view.View) *Budgets { return &Budgets{view: v, spent: map[kinds.Key]int32{}} }

// Judge says by the rules of Kubernetes' eviction whether a pod may be evicted now, and which budgets select it: none that matters for
// one that has ended, is ending or does not run yet. What it costs is spent.
func (b *Budgets) Judge(p *corev1.Pod) (Answer, []*policyv1.PodDisruptionBudget) {
	if p.DeletionTimestamp != nil || p.Status.Phase != corev1.PodRunning && p.Status.Phase != corev1.PodUnknown {
		return Free, nil
	}
	var of []*policyv1.PodDisruptionBudget
	for one := range view.List[*policyv1.PodDisruptionBudget](b.view, p.Namespace) {
		if kinds.Selects(one.Spec.Selector, p) {
			of = append(of, one)
		}
	}
	switch len(of) {
	case 0:
		return Free, nil
	case 1:
		return b.spend(of[0], p), of
	default:
		return Several, of
	}
}

func (b *Budgets) spend(one *policyv1.PodDisruptionBudget, p *corev1.Pod) Answer {
	if !podstatus.Ready(&p.Status) {
		always := one.Spec.UnhealthyPodEvictionPolicy != nil && *one.Spec.UnhealthyPodEvictionPolicy == policyv1.AlwaysAllow
		if s := one.Status; always || s.CurrentHealthy >= s.DesiredHealthy && s.DesiredHealthy > 0 {
			return Free
		}
	}
	key := kinds.KeyOf(one)
	switch spent := b.spent[key]; {
	case one.Status.ObservedGeneration < one.Generation:
		return Unseen
	case one.Status.DisruptionsAllowed <= spent:
		return Spent
	case b.spare(one) <= spent:
		return Unseen
	}
	b.spent[key]++
	return Spends
}

// spare is how many pods are ready now, and not expected to end, beyond those that a budget wants, which its status follows.
func (b *Budgets) spare(one *policyv1.PodDisruptionBudget) int32 {
	spare := -one.Status.DesiredHealthy
	for p := range view.List[*corev1.Pod](b.view, one.Namespace) {
		if _, ends := one.Status.DisruptedPods[p.Name]; ends {
			continue
		}
		if p.DeletionTimestamp == nil && podstatus.Ready(&p.Status) && kinds.Selects(one.Spec.Selector, p) {
			spare++
		}
	}
	return spare
}

// Less is a budget that allows one disruption less.
func Less(b *policyv1.PodDisruptionBudget, now time.Time) *policyv1.PodDisruptionBudget {
	out := b.DeepCopy()
	if out.Status.DisruptionsAllowed--; out.Status.DisruptionsAllowed == 0 {
		meta.SetStatusCondition(&out.Status.Conditions, metav1.Condition{
			Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.InsufficientPodsReason,
			ObservedGeneration: out.Status.ObservedGeneration, LastTransitionTime: metav1.NewTime(now.Truncate(time.Second)),
		})
	}
	return out
}
