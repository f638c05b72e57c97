// Package health judges whether an object does what it is there for.
package health

import (
	"cmp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/store/view"
)

// unschedulableAfter is how long a pod may have no node before that is a failure: a cluster that starts has its pods a
// moment before its nodes.
const unschedulableAfter = 10 * time.Second

// hinderedAfter is how long the volumes of a pod may not be mounted, or its sandbox not be made, before that is a failure: what volumes
// show, and what claims are bound to, may reach its node a moment after it, as may a RuntimeClass.
const hinderedAfter = 10 * time.Second

// Judge judges objects as one view has them at one moment. It is what rules see.
type Judge struct {
	*view.View
	now   time.Time
	found map[string]any // what rules have found once
}

var _ kinds.Sight = (*Judge)(nil)

// preBind begins what the scheduler says of claims that are not bound: which of its parts says so is of no matter to a verdict.
const preBind = `running PreBind plugin "VolumeBinding": `

// At returns the judge of a view at time now.
func At(v *view.View, now time.Time) *Judge {
	return &Judge{View: v, now: now, found: map[string]any{}}
}

// Of judges the object with that key by the rule of its kind. One that is not there is Progressing.
func (j *Judge) Of(k kinds.Key) kinds.Health {
	o := j.Get(k)
	switch {
	case o == nil && kinds.ForResource(k.GroupResource()) == kinds.For[*corev1.Node]():
		return kinds.Health{Cause: "has not joined the cluster yet"}
	case o == nil:
		return kinds.Health{Cause: "not created yet"}
	}
	if o.GetDeletionTimestamp() != nil {
		if p, ok := o.(*corev1.Pod); ok && podstatus.Preempted(&p.Status) {
			return kinds.Health{Cause: "preempted, is being deleted"}
		}
		return kinds.Health{Cause: "is being deleted"}
	}
	h := kinds.Of(o).Health.Judge(o, j)
	if h.State == kinds.Healthy {
		h.Drift = j.moved(o)
	}
	return h
}

// moved is which tag of an object's images has moved, as one of its pods tells where the object asks for it; empty where none has.
func (j *Judge) moved(o kinds.Object) string {
	meta, _, _ := kinds.Of(o).Pods(o)
	if meta == nil || meta.Annotations[podstatus.TrackImage] != "true" || o.GetDeletionTimestamp() != nil {
		return ""
	}
	if p, ok := o.(*corev1.Pod); ok {
		if c := podstatus.Condition(&p.Status, podstatus.ImageMoved); c != nil && c.Status == corev1.ConditionTrue {
			return c.Message
		}
		return ""
	}
	for child := range j.Controlled(o.GetUID()) {
		if which := j.moved(child); which != "" {
			return which
		}
	}
	return ""
}

// Now is the moment.
func (j *Judge) Now() time.Time { return j.now }

// Silence says since when a node that counts as silent has not been heard of; empty for any other.
func (j *Judge) Silence(node string) string { return Silence(j.View, node, j.now) }

// Once returns what find did when it was first asked by that name.
func (j *Judge) Once(name string, find func() any) any {
	found, ok := j.found[name]
	if !ok {
		found = find()
		j.found[name] = found
	}
	return found
}

// Pod judges one pod. The causes are Kubernetes' own reasons.
func (j *Judge) Pod(p *corev1.Pod) kinds.Health {
	switch {
	case p.Status.Phase == corev1.PodSucceeded:
		return kinds.Health{State: kinds.Healthy}
	case p.Status.Phase == corev1.PodFailed:
		if p.Status.Reason != "" {
			return kinds.Health{State: kinds.Failed, Cause: because(p.Status.Reason, rejection(p.Status.Message))}
		}
		return kinds.Health{State: kinds.Failed, Cause: cmp.Or(terminated(p), "Failed")}
	case podstatus.Ready(&p.Status):
		return resized(p)
	}
	if silence := Silence(j.View, p.Spec.NodeName, j.now); silence != "" {
		return kinds.Health{State: kinds.Failed, Cause: "not ready", Silence: silence}
	}
	if cause := waiting(p.Spec.InitContainers, p.Status.InitContainerStatuses); cause != "" {
		return kinds.Health{State: kinds.Failed, Cause: cause}
	}
	if cause := waiting(p.Spec.Containers, p.Status.ContainerStatuses); cause != "" {
		return kinds.Health{State: kinds.Failed, Cause: cause}
	}
	if c := podstatus.Condition(&p.Status, corev1.PodReadyToStartContainers); c != nil && c.Reason != "" {
		return j.hindered(c)
	}
	if gates := p.Spec.SchedulingGates; len(gates) > 0 {
		names := make([]string, len(gates))
		for i, g := range gates {
			names[i] = g.Name
		}
		return kinds.Health{Cause: corev1.PodReasonSchedulingGated + ": waits for " + strings.Join(names, ", "), Waits: true}
	}
	if c := podstatus.Condition(&p.Status, corev1.PodScheduled); c != nil && c.Status == corev1.ConditionFalse {
		switch c.Reason {
		case corev1.PodReasonUnschedulable, corev1.PodReasonSchedulerError:
			return j.unplaced(p, c)
		}
	} else if c == nil && p.Spec.NodeName == "" && p.Status.NominatedNodeName != "" {
		return kinds.Health{Cause: "waits for the volumes of its claims, for node " + p.Status.NominatedNodeName}
	}
	if c := podstatus.Condition(&p.Status, corev1.PodReady); c != nil && c.Reason == podstatus.GatesNotReady {
		return kinds.Health{Cause: because(c.Reason, "waits for "+strings.Join(podstatus.ClosedGates(p), ", ")), Waits: true}
	}
	return kinds.Health{Cause: "not ready"}
}

// resized judges a pod that is ready: whether its node has taken over what was pushed last, cpu and memory by Kubernetes' rules of
// a resize.
func resized(p *corev1.Pod) kinds.Health {
	if seen := p.Status.ObservedGeneration; p.Spec.NodeName != "" && seen != 0 && seen < p.Generation {
		return kinds.Health{Cause: "change not observed yet"}
	}
	for _, t := range []corev1.PodConditionType{corev1.PodResizePending, corev1.PodResizeInProgress} {
		c := podstatus.Condition(&p.Status, t)
		if c == nil || c.Status != corev1.ConditionTrue {
			continue
		}
		h := kinds.Health{Cause: because(string(t), c.Reason, c.Message)}
		if c.Reason == corev1.PodReasonInfeasible || c.Reason == corev1.PodReasonError {
			h.State = kinds.Failed
		}
		return h
	}
	return kinds.Health{State: kinds.Healthy}
}

// hindered judges a pod whose node has said that it cannot mount a volume of it, or make its sandbox.
func (j *Judge) hindered(c *corev1.PodCondition) kinds.Health {
	cause := because(c.Reason, mountError(c.Message))
	if due := c.LastTransitionTime.Add(hinderedAfter); j.now.Before(due) {
		return kinds.Health{Cause: cause, Again: due}
	}
	return kinds.Health{State: kinds.Failed, Cause: cause}
}

// unplaced judges a pod that the scheduler has said it has no node for.
func (j *Judge) unplaced(p *corev1.Pod, c *corev1.PodCondition) kinds.Health {
	due := c.LastTransitionTime.Add(unschedulableAfter)
	if j.now.Before(due) {
		return kinds.Health{Cause: "not scheduled yet", Again: due}
	}
	if c.Reason == corev1.PodReasonSchedulerError { // it stays while the pod has a node anew, until its claims are bound
		return kinds.Health{State: kinds.Failed, Cause: because(c.Reason, strings.TrimPrefix(c.Message, preBind))}
	}
	if node := p.Status.NominatedNodeName; node != "" {
		return kinds.Health{Cause: "waits for pods of lower priority to end on node " + node}
	}
	// Why ending others is no help is the scheduler's event's: a verdict has little room.
	if why, _, _ := strings.Cut(c.Message, " preemption: "); why != "" {
		return kinds.Health{State: kinds.Failed, Cause: "Unschedulable: " + why}
	}
	return kinds.Health{State: kinds.Failed, Cause: "Unschedulable"}
}

// Roll sums up the objects of a revision.
type Roll struct {
	Total, Healthy int
	// First names the first failed object with its cause, and where none has failed the first that progresses.
	First string
	// Meaning is First without what changes by itself: how long a node has been silent.
	Meaning string
	Failed  bool
	// Drift names the first object that is healthy and not what was pushed, with what is different: the tag of an image has moved.
	Drift string
	// Others is how many more objects have failed than the first.
	Others int
	Again  time.Time
}

// Sum gathers a Roll. NewSum makes one.
type Sum struct {
	Roll
	best int // how deep the first cause is
}

// NewSum returns the sum of no object.
func NewSum() *Sum { return &Sum{best: -1} }

// Add adds an object as it was judged. The first cause is the first of those added among the deepest: a Service without
// endpoints because its Deployment fails is not the cause, so workloads are looked at before services.
func (s *Sum) Add(k kinds.Key, r kinds.Health) {
	s.Total++
	if !r.Again.IsZero() && (s.Again.IsZero() || r.Again.Before(s.Again)) {
		s.Again = r.Again
	}
	if r.State == kinds.Healthy {
		s.Healthy++
		if r.Drift != "" && s.Drift == "" {
			s.Drift = k.String() + ": " + r.Drift
		}
		return
	}
	weight := 1
	if !kinds.ForResource(k.GroupResource()).Health.Follows {
		weight++
	}
	if r.State == kinds.Failed {
		weight += 2
		if s.Failed {
			s.Others++
		}
		s.Failed = true
	}
	if weight <= s.best {
		return
	}
	s.best, s.First = weight, k.String()+": "+r.Cause
	s.Meaning = s.First
	if r.Silence != "" {
		node, _, _ := strings.Cut(r.Silence, silentFor)
		s.First, s.Meaning = r.Silence+"; "+s.First, node+"; "+s.First
	}
}
