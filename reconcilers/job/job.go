// Package job runs the pods of every Job until enough of them have succeeded, or too many have failed.
package job

import (
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/reconcilers/pods"
	"lockstep/store/view"
)

// burst bounds how many pods one decision creates or gives up, to a turn of some 20 ms. Kubernetes' MaxPodCreateDeletePerSync, 500,
// spares an API on the other side of a network.
const burst = 1000

// New returns the reconciler of jobs.
func New() loop.Reconciler {
	return loop.Reconciler{
		Name:      "job",
		Component: "job-controller",
		Owner:     kinds.For[*batchv1.Job](),
		Reads: []loop.Read{{
			Kind: kinds.For[*corev1.Pod](),
			How:  "its controller; an orphan: those that select it",
			Keys: loop.ClaimantKeys(func(j *batchv1.Job) *metav1.LabelSelector { return j.Spec.Selector }),
		}},
		Writes: []loop.Write{
			{
				Kind: kinds.For[*corev1.Pod](), Create: true, Delete: true, Children: true,
				Fields: []string{"metadata.ownerReferences", "metadata.annotations." + kinds.LetGo},
				Shared: map[string]string{"metadata.ownerReferences": loop.OwnReference},
			},
			{Kind: kinds.For[*batchv1.Job](), Fields: []string{"status"}},
		},
		Decide: decide,
	}
}

// turn is one decision about one job.
type turn struct {
	job    *batchv1.Job
	now    time.Time
	claims pods.Claims
	tally  tally
	// active are the pods that run or will run, leaving those of them that the job has given up.
	active, leaving []*corev1.Pod
	status          *batchv1.JobStatus
	decision        loop.Decision
	created         int
}

func decide(v *view.View, key kinds.Key, now time.Time) (loop.Decision, error) {
	j, ok := v.Get(key).(*batchv1.Job)
	if !ok {
		return loop.Decision{}, nil
	}
	claims, err := pods.Claim(v, j, j.Spec.Selector)
	if err != nil {
		return loop.Decision{}, err
	}
	t := &turn{job: j, now: now, claims: claims, status: j.Status.DeepCopy()}
	t.decision.Wants = claims.Releases()
	for _, p := range claims.Kept {
		if p.DeletionTimestamp != nil && kinds.JobHolds(j, p) {
			t.giveUp(p, "the selector does not match any more")
		} else {
			t.keep("ended or ending", p)
		}
	}
	if kinds.JobFinished(j) != nil {
		t.keep("the job has ended", claims.Mine...)
		return t.decision, nil
	}
	for _, p := range claims.Active {
		if letGo(p) {
			t.leaving = append(t.leaving, p)
		} else {
			t.active = append(t.active, p)
		}
	}
	t.tally = count(j, claims.Mine)
	t.run()
	return t.decision, nil
}

// run decides about a job that has not ended. What is decided of its pods is first written down, in its status or in their
// annotations, and carried out in a later turn: so a pod counts once, or not at all, whatever comes between.
func (t *turn) run() {
	s := t.status
	if s.StartTime == nil && !suspended(t.job) {
		s.StartTime = t.time()
	}
	written := verdict(t.job)
	finish := written
	if finish == nil {
		finish = t.finishes()
	}
	switch {
	case finish != nil:
		t.end(finish, written != nil)
	case t.job.DeletionTimestamp != nil:
		t.keep("needed", t.active...)
		t.drop("the job has given it up", t.leaving)
		t.settle(nil)
	default:
		t.manage()
	}
	t.store()
}

// manage brings the number of pods to what is wanted, one way at a time.
func (t *turn) manage() {
	surplus := t.surplus()
	gone := map[*corev1.Pod]string{}
	for _, p := range surplus {
		gone[p] = t.why()
	}
	t.drop("the job has given it up", t.leaving)
	for _, p := range t.active {
		if why := gone[p]; why != "" {
			t.giveUp(p, why)
		} else {
			t.keep("needed", p)
		}
	}
	if len(surplus) > 0 || len(t.leaving) > 0 {
		t.leaving = append(t.leaving, surplus...)
		t.active = without(t.active, gone)
	} else if !suspended(t.job) {
		t.create()
	}
	complete := t.tally.succeeded > 0
	if want := t.job.Spec.Completions; want != nil {
		complete = t.tally.succeeded >= *want
	}
	if complete && len(t.active)+t.created == 0 {
		t.end(&batchv1.JobCondition{
			Type: batchv1.JobSuccessCriteriaMet, Reason: batchv1.JobReasonCompletionsReached,
			Message: "Reached expected number of succeeded pods",
		}, false)
		return
	}
	t.settle(nil)
	t.suspension()
}

// wanted is how many pods are to be active.
func (t *turn) wanted() int {
	parallelism := int(*t.job.Spec.Parallelism)
	switch want := t.job.Spec.Completions; {
	case suspended(t.job):
		return 0
	case want != nil:
		return max(0, min(parallelism, int(*want-t.tally.succeeded)))
	case t.tally.succeeded > 0:
		return len(t.active) // the others may end as they like
	default:
		return parallelism
	}
}

func (t *turn) why() string {
	if suspended(t.job) {
		return "the job is suspended"
	}
	if len(t.active) <= t.wanted() {
		return "another pod has its index, or none is to have it"
	}
	return fmt.Sprintf("too many pods: need %d", t.wanted())
}

// surplus are the active pods to be given up.
func (t *turn) surplus() []*corev1.Pod {
	n := max(0, len(t.active)-t.wanted())
	var out []*corev1.Pod
	left := t.active
	if indexed(t.job) {
		out, left = misplaced(t.job, t.active)
	}
	if len(out) < n {
		left = order(left)
		out = append(out, left[:n-len(out)]...)
	}
	return out[:min(len(out), burst)]
}

func (t *turn) keep(reason string, list ...*corev1.Pod) {
	t.decision.Wants = append(t.decision.Wants, t.claims.Keep(reason, list...)...)
}

func (t *turn) drop(reason string, list []*corev1.Pod) {
	for _, p := range list {
		t.decision.Drops = append(t.decision.Drops, pods.Deletion(p, reason))
	}
}

// giveUp notes on a pod that how it ends does not count.
func (t *turn) giveUp(p *corev1.Pod, why string) {
	changed := p.DeepCopy()
	if changed.Annotations == nil {
		changed.Annotations = map[string]string{}
	}
	changed.Annotations[kinds.LetGo] = why
	t.decision.Wants = append(t.decision.Wants, loop.Want{Object: changed, Reason: "given up: " + why})
}

func letGo(p *corev1.Pod) bool { return p.Annotations[kinds.LetGo] != "" }

func without(list []*corev1.Pod, gone map[*corev1.Pod]string) (left []*corev1.Pod) {
	for _, p := range list {
		if gone[p] == "" {
			left = append(left, p)
		}
	}
	return left
}

func (t *turn) time() *metav1.Time { return &metav1.Time{Time: t.now.Truncate(time.Second)} }

func (t *turn) again(at time.Time) {
	if at.After(t.now) && (t.decision.Again.IsZero() || at.Before(t.decision.Again)) {
		t.decision.Again = at
	}
}

func suspended(j *batchv1.Job) bool { return j.Spec.Suspend != nil && *j.Spec.Suspend }

func indexed(j *batchv1.Job) bool {
	return j.Spec.CompletionMode != nil && *j.Spec.CompletionMode == batchv1.IndexedCompletion
}

// onlyFailed says that a pod is replaced once it has ended, not when it is being deleted.
func onlyFailed(j *batchv1.Job) bool {
	return j.Spec.PodReplacementPolicy != nil && *j.Spec.PodReplacementPolicy == batchv1.Failed
}

func perIndex(j *batchv1.Job) bool { return j.Spec.BackoffLimitPerIndex != nil }
