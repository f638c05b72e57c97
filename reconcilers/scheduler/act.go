package scheduler

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/kinds/strategy"
	"lockstep/store"
)

// act writes what a plan asks for besides its bindings.
func (s *Scheduler) act(ctx context.Context, plan Plan, w *writing, now metav1.Time) {
	for _, r := range plan.Reservations {
		if key := kinds.KeyOf(r.Pod); s.queue.expired(key, now.Time) {
			s.queue.fail(key, now.Time)
			plan.Failures = append(plan.Failures, Failure{Pod: r.Pod, Reason: unbound(context.DeadlineExceeded.Error())})
			continue
		}
		s.queue.reserved(r, now.Time)
		for part := range slices.Chunk(r.writes(), store.MaxGroup) {
			w.add(ctx, action{r.Pod, part, nil})
		}
	}
	for _, p := range plan.Deferred {
		s.queue.fresh[kinds.KeyOf(p)] = struct{}{}
	}
	for _, r := range plan.Refusals {
		if s.queue.refused(r, now.Time) {
			s.opts.Events.Event(scheduledBy(r.Pod), r.Pod, corev1.EventTypeWarning, "FailedScheduling", r.Reason)
		}
		for _, part := range r.writes(now) {
			w.add(ctx, action{r.Pod, part.group, func() { s.preempted(part.ended, r) }})
		}
	}
	for _, f := range plan.Failures {
		s.opts.Events.Event(scheduledBy(f.Pod), f.Pod, corev1.EventTypeWarning, "FailedScheduling", f.Reason)
		if p, changed := failed(f, now); changed {
			w.add(ctx, action{f.Pod, store.Group{write(p, f.Reason)}, nil})
		}
	}
	for _, p := range plan.Released {
		s.queue.retry(kinds.KeyOf(p), now.Time)
		p = nominatedTo(p, "")
		w.add(ctx, action{p, store.Group{write(p, "another pod has taken the room")}, nil})
	}
	s.metrics.refusals.Add(float64(len(plan.Refusals)))
}

func (s *Scheduler) announce(b Binding, now time.Time) {
	s.metrics.bindings.Inc()
	s.metrics.latency.Observe(now.Sub(b.Pod.CreationTimestamp.Time).Seconds())
	s.opts.Events.Event(scheduledBy(b.Pod), b.Pod, corev1.EventTypeNormal, "Scheduled",
		fmt.Sprintf("Successfully assigned %s/%s to %s", b.Pod.Namespace, b.Pod.Name, b.Node))
}

// scheduledBy is the profile that signs what is told of a pod.
func scheduledBy(p *corev1.Pod) string { return cmp.Or(p.Spec.SchedulerName, component) }

func write(p *corev1.Pod, reason string) store.Write {
	return store.Write{Key: kinds.KeyOf(p), Object: p, If: kinds.Revision(p), Reason: reason}
}

// bound returns the pod of a binding as it is to be stored.
func bound(b Binding, now metav1.Time) *corev1.Pod {
	p, _ := withCondition(b.Pod, corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: now,
	})
	p.Spec.NodeName, p.Status.NominatedNodeName = b.Node, ""
	if len(b.Best) > 0 {
		p.Annotations = maps.Clone(p.Annotations)
		metav1.SetMetaDataAnnotation(&p.ObjectMeta, kinds.AnnotationScores, b.scores())
	}
	return p
}

// refused returns the pod of a refusal as it is to be stored, and whether that is a change.
func refused(r Refusal, now metav1.Time) (*corev1.Pod, bool) {
	p, changed := withCondition(r.Pod, corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, LastTransitionTime: now,
		Reason: corev1.PodReasonUnschedulable, Message: r.Reason,
	})
	if r.Nominated != r.Pod.Status.NominatedNodeName {
		return nominatedTo(p, r.Nominated), true
	}
	return p, changed
}

// failed returns the pod of a failure as it is to be stored, and whether that is a change.
func failed(f Failure, now metav1.Time) (*corev1.Pod, bool) {
	p, changed := withCondition(f.Pod, corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, LastTransitionTime: now,
		Reason: corev1.PodReasonSchedulerError, Message: f.Reason,
	})
	return nominatedTo(p, ""), changed || f.Pod.Status.NominatedNodeName != ""
}

// reserved returns the pod of a reservation as it is to be stored, and whether that is a change. Why no node took it before is true no
// longer. That its claims were not bound before stays until they are.
func (r Reservation) reserved() (*corev1.Pod, bool) {
	stale := func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable
	}
	p := nominatedTo(r.Pod, r.Node)
	p.Status.Conditions = slices.DeleteFunc(slices.Clone(p.Status.Conditions), stale)
	return p, r.Pod.Status.NominatedNodeName != r.Node || len(p.Status.Conditions) != len(r.Pod.Status.Conditions)
}

// nominatedTo returns a pod as it is to be stored.
func nominatedTo(p *corev1.Pod, node string) *corev1.Pod {
	out := *p
	out.Status.NominatedNodeName = node
	return &out
}

// writes are those of a reservation. The pod is nominated to the node, which holds its room there until its claims are bound; that is
// the last, so that of many claims none is left out.
func (r Reservation) writes() (out store.Group) {
	reason := kinds.KeyOf(r.Pod).String() + " goes to " + r.Node
	for _, pv := range r.Volumes {
		out = append(out, store.Write{Key: kinds.KeyOf(pv), Object: pv, If: kinds.Revision(pv), Reason: reason})
	}
	for _, c := range r.Claims {
		out = append(out, store.Write{Key: kinds.KeyOf(c), Object: c, If: kinds.Revision(c), Reason: reason})
	}
	if p, changed := r.reserved(); changed {
		out = append(out, write(p, r.Reason))
	}
	return out
}

// part is what of a refusal is written at once.
type part struct {
	group store.Group
	ended []*corev1.Pod
}

// writes are those of a refusal: the pods that end for it, together with what it says, so that none ends in vain; the last
// part has the refusal.
func (r Refusal) writes(now metav1.Time) (out []part) {
	var next part
	for _, v := range r.Evicts {
		if len(next.group) == store.MaxGroup-1 {
			out, next = append(out, next), part{}
		}
		next.group, next.ended = append(next.group, evict(v, r, now)), append(next.ended, v)
	}
	if p, changed := refused(r, now); changed {
		next.group = append(next.group, write(p, r.Reason))
	}
	if len(next.group) > 0 {
		out = append(out, next)
	}
	return out
}

// evict is the write that ends a pod, marked as Kubernetes marks a preempted one. A pod of a Job is ended by its node also where
// it has no time to end, so that the Job can count it.
func evict(p *corev1.Pod, winner Refusal, now metav1.Time) store.Write {
	by := scheduledBy(winner.Pod)
	p, _ = withCondition(p, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: now,
		Reason: corev1.PodReasonPreemptionByScheduler, Message: by + ": preempting to accommodate a higher priority pod",
	})
	changed, gone := strategy.Delete(p, now.Time, nil)
	if owner := metav1.GetControllerOfNoCopy(p); gone && owner != nil && owner.Kind == "Job" {
		changed, gone = strategy.Delete(p, now.Time, new(int64(1)))
	}
	w := store.Write{Key: kinds.KeyOf(p), If: kinds.Revision(p), Reason: "makes room for " + kinds.KeyOf(winner.Pod).String()}
	if !gone {
		w.Object = changed
	}
	return w
}

// preempted tells of the pods that end for another.
func (s *Scheduler) preempted(ended []*corev1.Pod, r Refusal) {
	s.metrics.victims.Add(float64(len(ended)))
	for _, p := range ended {
		s.opts.Events.Event(scheduledBy(r.Pod), p, corev1.EventTypeNormal, "Preempted",
			fmt.Sprintf("Preempted by pod %s on node %s", r.Pod.UID, r.Nominated))
	}
}

// withCondition returns a copy of the pod, sharing what it does not change, with the condition. Its transition time
// stays where its status does.
func withCondition(p *corev1.Pod, c corev1.PodCondition) (*corev1.Pod, bool) {
	out := *p
	out.Status.Conditions = slices.Clone(p.Status.Conditions)
	for i, old := range out.Status.Conditions {
		if old.Type != c.Type {
			continue
		}
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		c.LastProbeTime, c.ObservedGeneration = old.LastProbeTime, old.ObservedGeneration
		out.Status.Conditions[i] = c
		return &out, old != c
	}
	out.Status.Conditions = append(out.Status.Conditions, c)
	return &out, true
}
