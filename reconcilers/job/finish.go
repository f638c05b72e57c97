package job

import (
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/reconcilers/loop"
)

// verdict returns the condition by which it is decided how the job ends, though its pods have not ended; nil: it is not.
func verdict(j *batchv1.Job) *batchv1.JobCondition {
	if c := kinds.JobCondition(j, batchv1.JobSuccessCriteriaMet); c != nil {
		return c
	}
	return kinds.JobCondition(j, batchv1.JobFailureTarget)
}

// finishes decides whether the job ends by what its pods have come to, and how. Failures come first.
func (t *turn) finishes() *batchv1.JobCondition {
	j := t.job
	fails := func(reason, message string) *batchv1.JobCondition {
		return &batchv1.JobCondition{Type: batchv1.JobFailureTarget, Reason: reason, Message: message}
	}
	for _, p := range t.claims.Mine {
		if failed(j, p) && !letGo(p) {
			if why := policy(j, p).failsJob; why != "" {
				return fails(batchv1.JobReasonPodFailurePolicy, why)
			}
		}
	}
	if t.tally.failed > *j.Spec.BackoffLimit || t.restartedTooOften() {
		return fails(batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit")
	}
	if limit := j.Spec.ActiveDeadlineSeconds; limit != nil && !suspended(j) && t.status.StartTime != nil {
		due := t.status.StartTime.Add(kinds.Seconds(*limit))
		if !t.now.Before(due) {
			return fails(batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline")
		}
		t.again(due)
	}
	if lost := t.tally.lost.total(); perIndex(j) {
		switch {
		case j.Spec.MaxFailedIndexes != nil && lost > int(*j.Spec.MaxFailedIndexes):
			return fails(batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes")
		case lost > 0 && lost+t.tally.done.total() >= completions(j):
			return fails(batchv1.JobReasonFailedIndexes, "Job has failed indexes")
		}
	}
	if message, ok := successful(j, t.tally.done); ok {
		return &batchv1.JobCondition{Type: batchv1.JobSuccessCriteriaMet, Reason: batchv1.JobReasonSuccessPolicy, Message: message}
	}
	return nil
}

// restartedTooOften counts how often containers were started again within their pods, which restartPolicy OnFailure does
// instead of failing.
func (t *turn) restartedTooOften() bool {
	if t.job.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		return false
	}
	n := int32(0)
	for _, p := range t.claims.Mine {
		if podstatus.Finished(&p.Status) || p.Status.Phase == corev1.PodUnknown {
			continue
		}
		for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			n += c.RestartCount
		}
	}
	return n > 0 && n >= *t.job.Spec.BackoffLimit
}

// end brings a job to its end: its verdict is written down, with the counts, which then stay; its pods are ended; and when none
// is left, it has ended. written says that the first was done before.
func (t *turn) end(finish *batchv1.JobCondition, written bool) {
	s := t.status
	failing := finish.Type == batchv1.JobFailureTarget
	rest := append(slices.Clone(t.active), t.leaving...)
	if !written {
		if failing {
			t.failRest()
		}
		t.decision.Wants, t.decision.Drops = t.claims.Releases(), nil
		t.created = 0
		t.keep("ended or ending", t.claims.Kept...)
		t.keep("its job is about to end", rest...)
		t.settle(finish)
		t.condition(finish.Type, corev1.ConditionTrue, finish.Reason, finish.Message)
	} else {
		t.drop("its job ends: "+finish.Reason, rest)
		for _, p := range t.claims.Mine {
			if p.DeletionTimestamp != nil || podstatus.Finished(&p.Status) {
				t.keep("ended or ending", p)
			}
		}
		t.leaving, t.active = rest, nil
	}
	if len(rest) > 0 || len(t.claims.Terminating) > 0 {
		return
	}
	s.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	if s.StartTime == nil {
		s.StartTime = t.time() // Kubernetes' rules want one of a job that has ended
	}
	if failing {
		t.condition(batchv1.JobFailed, corev1.ConditionTrue, finish.Reason, finish.Message)
		t.tell(corev1.EventTypeWarning, finish.Reason, finish.Message)
		return
	}
	t.condition(batchv1.JobComplete, corev1.ConditionTrue, finish.Reason, finish.Message)
	s.CompletionTime = t.time()
	if want := t.job.Spec.Completions; want != nil && s.Succeeded > *want {
		t.tell(corev1.EventTypeWarning, "TooManySucceededPods", "Too many succeeded pods running after completion count reached")
	}
	t.tell(corev1.EventTypeNormal, "Completed", "Job completed")
}

// failRest counts the pods that have not ended as failed: their job has.
func (t *turn) failRest() {
	for _, p := range t.claims.Mine {
		if _, valid := indexOf(t.job, p); valid && !letGo(p) && p.Status.Phase != corev1.PodSucceeded && policy(t.job, p).counts {
			t.tally.failures[p.UID] = true
		}
	}
	t.tally.failed = max(t.tally.failed, int32(len(t.tally.failures)))
}

// suspension tells that the job has been suspended, or goes on.
func (t *turn) suspension() {
	s := t.status
	if suspended(t.job) {
		if t.condition(batchv1.JobSuspended, corev1.ConditionTrue, "JobSuspended", "Job suspended") {
			s.StartTime = nil
			t.tell(corev1.EventTypeNormal, "Suspended", "Job suspended")
		}
		return
	}
	if t.condition(batchv1.JobSuspended, corev1.ConditionFalse, "JobResumed", "Job resumed") {
		s.StartTime = t.time()
		t.tell(corev1.EventTypeNormal, "Resumed", "Job resumed")
	}
}

// condition sets a condition, and says whether that changed it. One that is not there is not made to be false.
func (t *turn) condition(kind batchv1.JobConditionType, status corev1.ConditionStatus, reason, message string) bool {
	c := batchv1.JobCondition{
		Type: kind, Status: status, Reason: reason, Message: message, LastProbeTime: *t.time(), LastTransitionTime: *t.time(),
	}
	for i := range t.status.Conditions {
		if old := &t.status.Conditions[i]; old.Type == kind {
			if old.Status == status && old.Reason == reason && old.Message == message {
				return false
			}
			*old = c
			return true
		}
	}
	if status == corev1.ConditionFalse {
		return false
	}
	t.status.Conditions = append(t.status.Conditions, c)
	return true
}

func (t *turn) tell(kind, reason, message string) {
	t.decision.Events = append(t.decision.Events, loop.Event{Type: kind, Reason: reason, Message: message})
}

// store wants the status, if it has changed.
func (t *turn) store() {
	t.decision.Status = t.withStatus(t.created)
	t.decision.IfRefused = func(error) kinds.Object { return t.withStatus(0) }
}

func (t *turn) withStatus(created int) kinds.Object {
	s := t.status.DeepCopy()
	s.Active = int32(len(t.active) + created)
	ready, ending := int32(0), int32(len(t.claims.Terminating)+len(t.leaving))
	for _, p := range t.active {
		if podstatus.Ready(&p.Status) {
			ready++
		}
	}
	s.Ready, s.Terminating = &ready, &ending
	if equality.Semantic.DeepEqual(*s, t.job.Status) {
		return nil
	}
	changed := t.job.DeepCopy()
	changed.Status = *s
	return changed
}
