// Package resourcequota keeps the status of ResourceQuotas: what is limited, and what is used of it.
package resourcequota

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"lockstep/kinds"
	"lockstep/kinds/admission"
	"lockstep/kinds/podstatus"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// New returns the reconciler.
func New() loop.Reconciler {
	quota := kinds.For[*corev1.ResourceQuota]()
	r := loop.Reconciler{
		Name:      "resourcequota",
		Component: "resourcequota-controller",
		Owner:     quota,
		Writes:    []loop.Write{{Kind: quota, Fields: []string{"status"}}},
		Decide:    decide,
	}
	for _, k := range kinds.All {
		if admission.Countable(k) {
			r.Reads = append(r.Reads, loop.Read{
				Kind: k, How: "the quotas of its namespace that count it", Keys: counting, Changed: usesOther,
			})
		}
	}
	return r
}

// counting are the quotas of an object's namespace that count something of objects of its kind.
func counting(v *view.View, o kinds.Object) (keys []kinds.Key) {
	for q := range view.List[*corev1.ResourceQuota](v, o.GetNamespace()) {
		if admission.Concerns(q, kinds.Of(o)) {
			keys = append(keys, kinds.KeyOf(q))
		}
	}
	return keys
}

// usesOther says that an update may change what an object uses: most are there, and no more.
func usesOther(old, new kinds.Object) bool {
	switch new := new.(type) {
	case *corev1.Pod:
		old := old.(*corev1.Pod)
		return podstatus.Finished(&old.Status) != podstatus.Finished(&new.Status) ||
			!old.DeletionTimestamp.Equal(new.DeletionTimestamp) || old.Generation != new.Generation
	case *corev1.Service:
		return !equality.Semantic.DeepEqual(old.(*corev1.Service).Spec, new.Spec)
	case *corev1.PersistentVolumeClaim:
		old := old.(*corev1.PersistentVolumeClaim)
		return !equality.Semantic.DeepEqual(old.Spec, new.Spec) ||
			!equality.Semantic.DeepEqual(old.Status.AllocatedResources, new.Status.AllocatedResources)
	}
	return false
}

func decide(v *view.View, key kinds.Key, now time.Time) (loop.Decision, error) {
	q, ok := v.Get(key).(*corev1.ResourceQuota)
	if !ok || q.DeletionTimestamp != nil {
		return loop.Decision{}, nil
	}
	used, until := admission.Used(q, v, now)
	next := q.DeepCopy()
	next.Status = corev1.ResourceQuotaStatus{Hard: q.Spec.Hard.DeepCopy(), Used: used}
	d := loop.Decision{Again: until}
	if !equality.Semantic.DeepEqual(q.Status, next.Status) {
		d.Status = next
	}
	return d, nil
}
