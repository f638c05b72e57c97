package admission

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"
	quota "k8s.io/apiserver/pkg/quota/v1"
	podresources "k8s.io/component-helpers/resource"

	"lockstep/kinds"
)

// Used returns what is used of each of a quota's resources, and when the first pod that is being deleted no longer counts; zero:
// none is.
func Used(q *corev1.ResourceQuota, in Cluster, now time.Time) (used corev1.ResourceList, until time.Time) {
	used = corev1.ResourceList{}
	for name := range q.Spec.Hard {
		if Counted(name) {
			used[name] = resource.Quantity{Format: resource.DecimalSI}
		}
	}
	for _, k := range kinds.All {
		if !Concerns(q, k) {
			continue
		}
		for o := range in.List(k.GroupResource(), q.Namespace) {
			if !inScopes(q, o) {
				continue
			}
			for name, n := range usage(o, now) {
				if sum, ok := used[name]; ok {
					sum.Add(n)
					used[name] = sum
				}
			}
			if pod, ok := o.(*corev1.Pod); ok {
				if ends := podEnds(pod); ends.After(now) && (until.IsZero() || ends.Before(until)) {
					until = ends
				}
			}
		}
	}
	return used, until
}

// Over says what is used beyond a quota, and that it stays; empty: nothing is.
func Over(q *corev1.ResourceQuota, in Cluster, now time.Time) string {
	used, _ := Used(q, in, now)
	fits, over := quota.LessThanOrEqual(used, q.Spec.Hard)
	if fits {
		return ""
	}
	return fmt.Sprintf("is below what is there, which stays, and none is added: used: %s, limited: %s",
		text(used, over), text(q.Spec.Hard, over))
}

// Concerns says that a quota counts something of the objects of a kind.
func Concerns(q *corev1.ResourceQuota, k *kinds.Kind) bool {
	for name := range q.Spec.Hard {
		if Counts(name, k) {
			return true
		}
	}
	return false
}

// Quotas judge what is made, one after the other, by the ResourceQuotas of its namespace: what one has been allowed is used for
// the next. Those of a namespace are looked at when it is asked for the first time.
type Quotas struct {
	stated, live Cluster
	now          time.Time
	accounts     map[string][]*account
}

// account is a quota, and what is used of it.
type account struct {
	*corev1.ResourceQuota
	used corev1.ResourceList
}

// NewQuotas returns the quotas that are stated in one cluster, used by what is live in another, most often the same.
func NewQuotas(stated, live Cluster, now time.Time) *Quotas {
	return &Quotas{stated: stated, live: live, now: now, accounts: map[string][]*account{}}
}

func (qs *Quotas) of(namespace string) []*account {
	list, known := qs.accounts[namespace]
	if known || namespace == "" {
		return list
	}
	for o := range qs.stated.List(kinds.For[*corev1.ResourceQuota]().GroupResource(), namespace) {
		list = append(list, &account{ResourceQuota: o.(*corev1.ResourceQuota)})
	}
	for _, a := range list {
		a.used, _ = Used(a.ResourceQuota, qs.live, qs.now)
	}
	slices.SortFunc(list, func(a, b *account) int { return strings.Compare(a.Name, b.Name) })
	qs.accounts[namespace] = list
	return list
}

// Charge charges an object to the quotas of its namespace, as Kubernetes' plugin ResourceQuota does: one that is new, and has no
// before, or what it uses more than before. Where one is exceeded, or wants what the object does not state, none is charged; the
// error has the field, where one is missing, and says it in the words of the plugin.
func (qs *Quotas) Charge(o, before kinds.Object) *field.Error {
	list := qs.of(o.GetNamespace())
	if len(list) == 0 {
		return nil
	}
	if err := qs.Demand(o); err != nil && before == nil {
		return err
	}
	asks := make([]corev1.ResourceList, len(list))
	for i, a := range list {
		asks[i] = a.asked(o, before, qs.now)
		then := quota.Mask(quota.Add(a.used, asks[i]), quota.ResourceNames(asks[i]))
		if fits, exceeded := quota.LessThanOrEqual(then, a.Spec.Hard); !fits {
			return refused("exceeded quota: %s, requested: %s, used: %s, limited: %s", a.Name, text(asks[i], exceeded),
				text(a.used, exceeded), text(a.Spec.Hard, exceeded))
		}
	}
	for i, a := range list {
		a.used = quota.Add(a.used, asks[i])
	}
	return nil
}

// Promise charges an object that will be there, unless it already is.
func (qs *Quotas) Promise(o kinds.Object) {
	if qs.live.Get(kinds.KeyOf(o)) != nil {
		return
	}
	for _, a := range qs.of(o.GetNamespace()) {
		a.used = quota.Add(a.used, a.asked(o, nil, qs.now))
	}
}

// Release gives back what an object uses that is to go, or what it uses more than what comes after it.
func (qs *Quotas) Release(o, after kinds.Object) {
	for _, a := range qs.of(o.GetNamespace()) {
		a.used = quota.SubtractWithNonNegativeResult(a.used, a.asked(o, after, qs.now))
	}
}

// Demand says what a new object does not state, and one of its namespace's quotas wants: a pod's containers' requests and limits
// of processors and memory that are limited.
func (qs *Quotas) Demand(o kinds.Object) *field.Error {
	pod, ok := o.(*corev1.Pod)
	if !ok || podresources.IsPodLevelResourcesSet(pod) {
		return nil
	}
	for _, a := range qs.of(pod.Namespace) {
		if !inScopes(a.ResourceQuota, pod) {
			continue
		}
		if lacks, first := a.lacks(pod); first != nil {
			err := refused("failed quota: %s: must specify %s", a.Name, lacks)
			err.Field = first.Child("resources").String()
			return err
		}
	}
	return nil
}

// asked is what an object uses of a quota's resources, less what the other does; what is nothing is left out.
func (a *account) asked(o, other kinds.Object, now time.Time) corev1.ResourceList {
	if !inScopes(a.ResourceQuota, o) {
		return nil
	}
	used := usage(o, now)
	if other != nil && inScopes(a.ResourceQuota, other) {
		used = quota.SubtractWithNonNegativeResult(used, usage(other, now))
	}
	return quota.RemoveZeros(quota.Mask(used, quota.ResourceNames(a.Spec.Hard)))
}

// lacks words which of the resources that a pod has to state which containers do not, and where the first of these is.
func (a *account) lacks(pod *corev1.Pod) (lacks string, first *field.Path) {
	list, at := containers(pod)
	var parts []string
	for _, name := range []corev1.ResourceName{
		corev1.ResourceCPU, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory,
		corev1.ResourceMemory, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory,
	} {
		if _, limited := a.Spec.Hard[name]; !limited {
			continue
		}
		var without []string
		for i, c := range list {
			stated := corev1.ResourceList{}
			addContainers(stated, c.Resources.Requests, c.Resources.Limits)
			if _, ok := stated[name]; !ok {
				without = append(without, c.Name)
				if first == nil {
					first = at[i]
				}
			}
		}
		if len(without) > 0 {
			slices.Sort(without)
			parts = append(parts, fmt.Sprintf("%s for: %s", name, strings.Join(without, ",")))
		}
	}
	return strings.Join(parts, "; "), first
}

func refused(format string, args ...any) *field.Error {
	return &field.Error{Type: field.ErrorTypeForbidden, Detail: fmt.Sprintf(format, args...)}
}

// text is those of a list's resources that are named, as Kubernetes words them.
func text(list corev1.ResourceList, names []corev1.ResourceName) string {
	list = quota.Mask(list, names)
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(list)) {
		q := list[name]
		parts = append(parts, string(name)+"="+q.String())
	}
	return strings.Join(parts, ",")
}
