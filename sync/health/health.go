// Package health judges whether an object does what it is there for.
package health

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/store/view"
)

// State of an object's health.
type State int

const (
	// Progressing: not healthy yet, and no cause is known why it should not become so.
	Progressing State = iota
	Healthy
	// Failed: a cause is known. It may become Healthy later all the same.
	Failed
)

// Result is a judgement. Cause says what is missing or wrong, "CrashLoopBackOff, 2/3 ready"; empty where Healthy.
type Result struct {
	State State
	Cause string
	// Silence names the silent node that it is about, "node b has been silent for 40 s"; empty: none.
	Silence string
	// Again is when the judgement may change although the view does not; zero: never.
	Again time.Time
}

// Text is everything that is said of it; empty where Healthy.
func (r Result) Text() string {
	if r.Silence != "" {
		return r.Silence + "; " + r.Cause
	}
	return r.Cause
}

// unschedulableAfter is how long a pod may have no node before that is a failure: a cluster that starts has its pods a
// moment before its nodes.
const unschedulableAfter = 10 * time.Second

// Judge judges objects as one view has them at one moment. What all services depend on is found once.
type Judge struct {
	view    *view.View
	now     time.Time
	unruled *string // withoutRules, once it was asked for
}

// At returns the judge of a view at time now.
func At(v *view.View, now time.Time) *Judge { return &Judge{view: v, now: now} }

// Of judges the object with that key as the view has it at time now. An object that is not there is Progressing.
func Of(k kinds.Key, v *view.View, now time.Time) Result { return At(v, now).Of(k) }

// Of judges the object with that key. One that is not there is Progressing.
func (j *Judge) Of(k kinds.Key) Result {
	o := j.view.Get(k)
	if o == nil {
		return Result{Cause: "not created yet"}
	}
	if o.GetDeletionTimestamp() != nil {
		return Result{Cause: "is being deleted"}
	}
	return ruleOf(kinds.Of(o)).judge(j, o)
}

func deployment(d *appsv1.Deployment, v *view.View, now time.Time) Result {
	want := replicas(d.Spec.Replicas)
	s := d.Status
	count := fmt.Sprintf("%d/%d ready", min(s.ReadyReplicas, want), want)
	current := s.ObservedGeneration >= d.Generation
	if current && s.UpdatedReplicas == want && s.Replicas == want && s.AvailableReplicas == want {
		return Result{State: Healthy}
	}
	if current {
		for _, c := range s.Conditions {
			if c.Type == appsv1.DeploymentProgressing && c.Status == corev1.ConditionFalse && c.Reason == "ProgressDeadlineExceeded" {
				if r := podsOf(newest(d, v), v, now); r.State == Failed {
					return r.failed(count)
				}
				return failed("ProgressDeadlineExceeded", count)
			}
		}
	}
	r := Result{}
	if rs := newest(d, v); rs != nil {
		if r = podsOf(rs, v, now); r.State == Failed {
			return r.failed(count)
		}
		if cause, ok := replicaFailure(rs.Status.Conditions); ok {
			return failed(cause, count)
		}
	}
	cause := count
	switch {
	case !current && s.ObservedGeneration > 0:
		// The counts are of what was stated before.
		cause = "change not observed yet, " + count
	case s.UpdatedReplicas < want:
		cause = fmt.Sprintf("%d/%d updated, %s", min(s.UpdatedReplicas, want), want, count)
	}
	return Result{Cause: cause, Again: r.Again}
}

// newest returns the replica set of the deployment that has its template, or nil: the one with the highest revision.
func newest(d *appsv1.Deployment, v *view.View) *appsv1.ReplicaSet {
	var sets []*appsv1.ReplicaSet
	for o := range v.Controlled(d.UID) {
		if rs, ok := o.(*appsv1.ReplicaSet); ok {
			sets = append(sets, rs)
		}
	}
	if len(sets) == 0 || d.Status.ObservedGeneration < d.Generation {
		return nil
	}
	return slices.MaxFunc(sets, func(a, b *appsv1.ReplicaSet) int {
		return cmp.Or(cmp.Compare(revision(a), revision(b)), a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
			strings.Compare(a.Name, b.Name))
	})
}

func revision(rs *appsv1.ReplicaSet) int {
	n := 0
	fmt.Sscanf(rs.Annotations["deployment.kubernetes.io/revision"], "%d", &n)
	return n
}

func replicaSet(rs *appsv1.ReplicaSet, v *view.View, now time.Time) Result {
	want := replicas(rs.Spec.Replicas)
	count := fmt.Sprintf("%d/%d ready", min(rs.Status.ReadyReplicas, want), want)
	if rs.Status.ObservedGeneration >= rs.Generation && rs.Status.Replicas == want && rs.Status.AvailableReplicas == want {
		return Result{State: Healthy}
	}
	r := podsOf(rs, v, now)
	if r.State == Failed {
		return r.failed(count)
	}
	if cause, ok := replicaFailure(rs.Status.Conditions); ok {
		return failed(cause, count)
	}
	return Result{Cause: count, Again: r.Again}
}

func replicaFailure(conditions []appsv1.ReplicaSetCondition) (string, bool) {
	for _, c := range conditions {
		if c.Type == appsv1.ReplicaSetReplicaFailure && c.Status == corev1.ConditionTrue {
			return c.Reason, true
		}
	}
	return "", false
}

// podsOf returns the first failure among the pods of a replica set, in the order of their names, else Progressing.
func podsOf(rs *appsv1.ReplicaSet, v *view.View, now time.Time) Result {
	if rs == nil {
		return Result{}
	}
	return worst(func(yield func(*corev1.Pod) bool) {
		for o := range v.Controlled(rs.UID) {
			if p, ok := o.(*corev1.Pod); ok && !yield(p) {
				return
			}
		}
	}, v, now)
}

// worst is the first failure, one for a silent node before all others: nothing that was heard of its pods still holds.
func worst(pods func(func(*corev1.Pod) bool), v *view.View, now time.Time) Result {
	var again time.Time
	first := Result{}
	for p := range pods {
		if p.DeletionTimestamp != nil {
			continue
		}
		r := pod(p, v, now)
		if r.Silence != "" {
			return r
		}
		if r.State == Failed && first.State != Failed {
			first = r
		}
		if !r.Again.IsZero() && (again.IsZero() || r.Again.Before(again)) {
			again = r.Again
		}
	}
	if first.State == Failed {
		return first
	}
	return Result{Again: again}
}

// pod judges one pod. The causes are Kubernetes' own reasons.
func pod(p *corev1.Pod, v *view.View, now time.Time) Result {
	switch {
	case p.Status.Phase == corev1.PodSucceeded:
		return Result{State: Healthy}
	case p.Status.Phase == corev1.PodFailed:
		return Result{State: Failed, Cause: cmp.Or(p.Status.Reason, terminated(p), "Failed")}
	case podstatus.Ready(&p.Status):
		return Result{State: Healthy}
	}
	if silence := Silence(v, p.Spec.NodeName, now); silence != "" {
		return Result{State: Failed, Cause: "not ready", Silence: silence}
	}
	if cause := waiting(p.Spec.InitContainers, p.Status.InitContainerStatuses); cause != "" {
		return Result{State: Failed, Cause: cause}
	}
	if cause := waiting(p.Spec.Containers, p.Status.ContainerStatuses); cause != "" {
		return Result{State: Failed, Cause: cause}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable {
			due := c.LastTransitionTime.Add(unschedulableAfter)
			if now.Before(due) {
				return Result{Cause: "not scheduled yet", Again: due}
			}
			if c.Message != "" {
				return Result{State: Failed, Cause: "Unschedulable: " + c.Message}
			}
			return Result{State: Failed, Cause: "Unschedulable"}
		}
	}
	return Result{Cause: "not ready"}
}

// service is healthy unless a node lacks its rules, or pods it selects are wanted and none of them is ready.
func (j *Judge) service(s *corev1.Service) Result {
	if ruled(s) {
		if j.unruled == nil {
			cause := withoutRules(j.view)
			j.unruled = &cause
		}
		if *j.unruled != "" {
			return Result{State: Failed, Cause: *j.unruled}
		}
	}
	if len(s.Spec.Selector) == 0 || s.Spec.Type == corev1.ServiceTypeExternalName || s.Spec.PublishNotReadyAddresses {
		return Result{State: Healthy}
	}
	selector := labels.SelectorFromSet(s.Spec.Selector)
	var wanted []*corev1.Pod
	for p := range view.List[*corev1.Pod](j.view, s.Namespace) {
		if p.DeletionTimestamp != nil || podstatus.Finished(&p.Status) || !selector.Matches(labels.Set(p.Labels)) {
			continue
		}
		if podstatus.Ready(&p.Status) {
			return Result{State: Healthy}
		}
		wanted = append(wanted, p)
	}
	if len(wanted) == 0 {
		return Result{State: Healthy}
	}
	count := fmt.Sprintf("0/%d ready", len(wanted))
	r := worst(slices.Values(wanted), j.view, j.now)
	if r.State == Failed {
		return r.failed(count)
	}
	return Result{Cause: count, Again: r.Again}
}

// failed is the failure of what wants pods, of which one fails as r says.
func (r Result) failed(count string) Result {
	if r.Silence != "" {
		return Result{State: Failed, Cause: count, Silence: r.Silence}
	}
	return failed(r.Cause, count)
}

func failed(cause, count string) Result {
	reason, detail, ok := strings.Cut(cause, ": ")
	if ok {
		detail = ": " + detail
	}
	return Result{State: Failed, Cause: reason + ", " + count + detail}
}

func replicas(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}

// Roll sums up the objects of a revision.
type Roll struct {
	Total, Healthy int
	// First names the first failed object with its cause, and where none has failed the first that progresses.
	First string
	// Meaning is First without what changes by itself: how long a node has been silent.
	Meaning string
	Failed  bool
	Again   time.Time
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
func (s *Sum) Add(k kinds.Key, r Result) {
	s.Total++
	if !r.Again.IsZero() && (s.Again.IsZero() || r.Again.Before(s.Again)) {
		s.Again = r.Again
	}
	if r.State == Healthy {
		s.Healthy++
		return
	}
	weight := 1
	if !ruleOf(kinds.ForResource(k.GroupResource())).follows {
		weight++
	}
	if r.State == Failed {
		weight += 2
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
