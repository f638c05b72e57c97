package strategy

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
)

// Delete says what Kubernetes' graceful deletion of o at time now makes of it. gone: remove it from the store. Else
// changed is the object to store instead, or nil where it is being deleted already and nothing changes. o is not
// changed. grace is the requested grace period in seconds; nil means the pod's own, and it is of no matter to other
// kinds.
//
// A pod that is bound and not finished stays with a deletionTimestamp until its node has ended it and deletes it again
// with grace 0; a later deletion can only shorten the grace. A namespace becomes Terminating, and is gone once it is
// deleted again without spec.finalizers. An object with finalizers stays until they are removed (see Finished).
func Delete(o kinds.Object, now time.Time, grace *int64) (changed kinds.Object, gone bool) {
	if remove := registryOf(kinds.Of(o)).remove; remove != nil {
		return remove(o, now, grace)
	}
	return deleteNow(o, now)
}

// deleteController holds one that leaves what it owns until nothing is its own any more, by Kubernetes' finalizer.
func deleteController(o kinds.Object, now time.Time, _ *int64) (kinds.Object, bool) {
	if o.GetDeletionTimestamp() == nil && kinds.Orphans(o) {
		o = o.DeepCopyObject().(kinds.Object)
		o.SetFinalizers(append(o.GetFinalizers(), metav1.FinalizerOrphanDependents))
	}
	return deleteNow(o, now)
}

func deleteNamespace(o kinds.Object, now time.Time, _ *int64) (kinds.Object, bool) {
	ns := o.(*corev1.Namespace)
	switch {
	case ns.DeletionTimestamp == nil:
		changed := ns.DeepCopy()
		changed.DeletionTimestamp = timestamp(now)
		changed.Status.Phase = corev1.NamespaceTerminating
		return changed, false
	case len(ns.Spec.Finalizers) > 0:
		return nil, false
	}
	return deleteNow(o, now)
}

func deletePod(o kinds.Object, now time.Time, grace *int64) (kinds.Object, bool) {
	p := o.(*corev1.Pod)
	if p.DeletionTimestamp != nil {
		return hasten(p, now, grace)
	}
	period := int64(0)
	switch {
	case p.Spec.NodeName == "", podstatus.Finished(&p.Status):
	case grace != nil:
		period = *grace
	case p.Spec.TerminationGracePeriodSeconds != nil:
		period = *p.Spec.TerminationGracePeriodSeconds
	}
	if period < 0 {
		period = 1
	}
	if period == 0 {
		return deleteNow(p, now)
	}
	period = min(period, kinds.MostSeconds)
	changed := p.DeepCopy()
	changed.DeletionTimestamp = timestamp(now.Add(kinds.Seconds(period)))
	changed.DeletionGracePeriodSeconds = &period
	if changed.Generation > 0 {
		changed.Generation++
	}
	return changed, false
}

// hasten deletes a pod that is being deleted already: the grace may become shorter, never longer.
func hasten(p *corev1.Pod, now time.Time, grace *int64) (kinds.Object, bool) {
	if p.DeletionGracePeriodSeconds == nil || *p.DeletionGracePeriodSeconds == 0 {
		return deleteNow(p, now)
	}
	if grace == nil {
		return nil, false
	}
	period := *grace
	if period < 0 {
		period = 1
	}
	if period >= *p.DeletionGracePeriodSeconds {
		return nil, false
	}
	if period == 0 {
		return deleteNow(p, now)
	}
	at := p.DeletionTimestamp.Add(time.Duration(period-*p.DeletionGracePeriodSeconds) * time.Second)
	if at.Before(now) {
		// The whole grace is over: the shortest one that still lets the node act.
		at, period = now, 1
	}
	changed := p.DeepCopy()
	changed.DeletionTimestamp = timestamp(at)
	changed.DeletionGracePeriodSeconds = &period
	return changed, false
}

// deleteNow removes the object, or marks it where finalizers hold it.
func deleteNow(o kinds.Object, now time.Time) (kinds.Object, bool) {
	if len(o.GetFinalizers()) == 0 {
		return nil, true
	}
	t, grace := o.GetDeletionTimestamp(), o.GetDeletionGracePeriodSeconds()
	if t != nil && !t.After(now) && grace != nil && *grace == 0 {
		return nil, false
	}
	changed := o.DeepCopyObject().(kinds.Object)
	if t == nil && changed.GetGeneration() > 0 {
		changed.SetGeneration(changed.GetGeneration() + 1)
	}
	if t == nil || t.After(now) {
		changed.SetDeletionTimestamp(timestamp(now))
	}
	changed.SetDeletionGracePeriodSeconds(new(int64))
	return changed, false
}

// timestamp has whole seconds, as every time in Kubernetes' encodings.
func timestamp(t time.Time) *metav1.Time {
	return &metav1.Time{Time: t.Truncate(time.Second)}
}
