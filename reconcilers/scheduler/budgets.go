package scheduler

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"lockstep/kinds/podstatus"
)

// budget is how many of the pods that a PodDisruptionBudget selects may be ended.
type budget struct {
	selector labels.Selector
	// allowed is of the status, and no more than the pods that are ready now say: the status follows them.
	allowed int32
	// disrupted are pods of which a program has said that they end: they count as ended, and who ends one pays for it nevertheless.
	disrupted map[string]metav1.Time
}

// budgets are the PodDisruptionBudgets as a round finds and spends them. They are read a namespace at a time.
type budgets struct {
	state *State
	read  map[string][]*budget
	spent int // how often
}

// of returns the budgets that select a pod.
func (b *budgets) of(p *corev1.Pod) (out []*budget) {
	list, ok := b.read[p.Namespace]
	if !ok {
		list = b.state.budgetsIn(p.Namespace)
		b.read[p.Namespace] = list
	}
	for _, one := range list {
		if len(p.Labels) > 0 && one.selector.Matches(labels.Set(p.Labels)) {
			out = append(out, one)
		}
	}
	return out
}

// divide tells pods that a budget wants to keep, were all of them to end in their order, from the others.
func (b *budgets) divide(pods []*placed) (wanted, others []*placed) {
	left := map[*budget]int32{}
next:
	for _, p := range pods {
		for _, one := range b.of(p.pod) {
			if _, ok := left[one]; !ok {
				left[one] = one.allowed
			}
			if left[one]--; left[one] < 0 {
				wanted = append(wanted, p)
				continue next
			}
		}
		others = append(others, p)
	}
	return wanted, others
}

// spend takes a pod that is to end from what its budgets allow.
func (b *budgets) spend(p *corev1.Pod) {
	if !podstatus.Ready(&p.Status) {
		return
	}
	for _, one := range b.of(p) {
		one.allowed--
		b.spent++
	}
}

// budgetsIn reads the budgets of a namespace.
func (s *State) budgetsIn(namespace string) (out []*budget) {
	var found []*policyv1.PodDisruptionBudget
	for key, b := range s.budgets {
		if key.Namespace == namespace {
			found = append(found, b)
		}
	}
	slices.SortFunc(found, func(a, b *policyv1.PodDisruptionBudget) int { return cmp.Compare(a.Name, b.Name) })
	var from []*policyv1.PodDisruptionBudget
	for _, b := range found {
		// One whose selector cannot be read or selects all selects nothing, in kube-scheduler, too.
		if selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector); err == nil && !selector.Empty() {
			from = append(from, b)
			out = append(out, &budget{selector: selector, disrupted: b.Status.DisruptedPods, allowed: -b.Status.DesiredHealthy})
		}
	}
	if len(out) == 0 {
		return nil
	}
	for _, at := range s.placed {
		p := at.pod
		if p.Namespace != namespace || p.DeletionTimestamp != nil || !podstatus.Ready(&p.Status) {
			continue
		}
		for _, one := range out {
			if _, ends := one.disrupted[p.Name]; !ends && one.selector.Matches(labels.Set(p.Labels)) {
				one.allowed++
			}
		}
	}
	for i, one := range out {
		one.allowed = min(max(0, one.allowed), from[i].Status.DisruptionsAllowed)
	}
	return out
}
