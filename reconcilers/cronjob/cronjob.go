// Package cronjob makes a Job of every CronJob whenever its schedule says so.
package cronjob

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// New returns the reconciler of cron jobs.
func New() loop.Reconciler {
	return loop.Reconciler{
		Name:      "cronjob",
		Component: "cronjob-controller",
		Owner:     kinds.For[*batchv1.CronJob](),
		Reads: []loop.Read{
			{Kind: kinds.For[*batchv1.Job](), How: "its controller", Keys: loop.ControllerKeys(kinds.For[*batchv1.CronJob]())},
		},
		Writes: []loop.Write{
			{Kind: kinds.For[*batchv1.Job](), Create: true, Delete: true, Children: true},
			{Kind: kinds.For[*batchv1.CronJob](), Fields: []string{"status"}},
		},
		Decide: decide,
	}
}

// turn is one decision about one cron job.
type turn struct {
	view     *view.View
	cron     *batchv1.CronJob
	now      time.Time
	jobs     []*batchv1.Job
	active   []*batchv1.Job // those that have not ended
	status   *batchv1.CronJobStatus
	decision loop.Decision
	// unnoted are jobs whose time is not in the status yet: they stay until it is, or it could come again.
	unnoted, dropped map[types.UID]bool
}

func decide(v *view.View, key kinds.Key, now time.Time) (loop.Decision, error) {
	c, ok := v.Get(key).(*batchv1.CronJob)
	if !ok {
		return loop.Decision{}, nil
	}
	t := &turn{view: v, cron: c, now: now, status: c.Status.DeepCopy(), unnoted: map[types.UID]bool{}, dropped: map[types.UID]bool{}}
	for o := range v.Controlled(c.UID) {
		if j, ok := o.(*batchv1.Job); ok {
			t.jobs = append(t.jobs, j)
			if kinds.JobFinished(j) == nil {
				t.active = append(t.active, j)
			}
		}
	}
	for _, j := range t.jobs {
		t.note(j)
	}
	if c.DeletionTimestamp == nil {
		t.forget()
	}
	t.observe()
	if c.DeletionTimestamp == nil {
		t.schedule()
	}
	slices.SortFunc(t.decision.Drops, func(a, b loop.Drop) int { return a.Key.Compare(b.Key) })
	for _, j := range t.jobs {
		if !t.dropped[j.UID] {
			t.decision.Wants = append(t.decision.Wants, loop.Keep("of its schedule", j)...)
		}
	}
	t.store()
	return t.decision, nil
}

// observe brings the status to what has become of the jobs.
func (t *turn) observe() {
	known := map[types.UID]bool{}
	for _, j := range t.jobs {
		known[j.UID] = true
		listed := slices.ContainsFunc(t.status.Active, func(r corev1.ObjectReference) bool { return r.UID == j.UID })
		ended := kinds.JobFinished(j)
		if ended == nil {
			continue
		}
		if listed {
			t.tell(corev1.EventTypeNormal, "SawCompletedJob", fmt.Sprintf("Saw completed job: %s, condition: %v", j.Name, ended.Type))
		}
		if last := t.status.LastSuccessfulTime; ended.Type == batchv1.JobComplete && j.Status.CompletionTime != nil &&
			(last == nil || last.Before(j.Status.CompletionTime)) {
			t.status.LastSuccessfulTime = j.Status.CompletionTime
		}
	}
	for _, r := range t.status.Active {
		if !known[r.UID] {
			t.tell(corev1.EventTypeNormal, "MissingJob", "Active job went missing: "+r.Name)
		}
	}
	t.status.Active = nil
	for _, j := range t.active {
		t.status.Active = append(t.status.Active, corev1.ObjectReference{
			Kind: "Job", APIVersion: "batch/v1", Namespace: j.Namespace, Name: j.Name, UID: j.UID, ResourceVersion: j.ResourceVersion,
		})
	}
	slices.SortFunc(t.status.Active, func(a, b corev1.ObjectReference) int { return strings.Compare(a.Name, b.Name) })
	t.keepVersions()
}

// note notes the time for which a job was made in the turn before.
func (t *turn) note(j *batchv1.Job) {
	at, err := time.Parse(time.RFC3339, j.Annotations[batchv1.CronJobScheduledTimestampAnnotation])
	if err != nil {
		return
	}
	if last := t.cron.Status.LastScheduleTime; last == nil || last.Time.Before(at) {
		t.unnoted[j.UID] = true
	}
	if last := t.status.LastScheduleTime; last == nil || last.Time.Before(at) {
		t.status.LastScheduleTime = &metav1.Time{Time: at}
	}
}

// keepVersions keeps the version that a listed job was first seen with: a reference does not change with every change of it.
func (t *turn) keepVersions() {
	for i := range t.status.Active {
		for _, old := range t.cron.Status.Active {
			if old.UID == t.status.Active[i].UID {
				t.status.Active[i] = old
			}
		}
	}
}

// since is the time after which times count: that of the last job, in the status or not yet, else of the cron job's creation.
// Within a deadline, the times of an "@every" move with it and the clock: counted from before the last job, one could come before it.
func (t *turn) since() time.Time {
	if last := t.status.LastScheduleTime; last != nil {
		return last.Time
	}
	return t.cron.CreationTimestamp.Time
}

// schedule makes the job that is due.
func (t *turn) schedule() {
	c := t.cron
	suspended := c.Spec.Suspend != nil && *c.Spec.Suspend
	s, zone, problem := scheduleOf(c)
	if problem != nil && (!suspended || problem.Reason == unknownTimeZone) {
		t.decision.Events = append(t.decision.Events, *problem)
	}
	if problem != nil || suspended {
		return
	}
	due, missed, err := newest(t.since(), c.Spec.StartingDeadlineSeconds, t.now, s)
	if err != nil {
		t.tell(corev1.EventTypeWarning, "InvalidSchedule", fmt.Sprintf("invalid schedule: %s : %s", c.Spec.Schedule, err))
		return
	}
	t.decision.Again = next(t.since(), t.now, s)
	if due.IsZero() {
		return
	}
	if missed == many {
		t.tell(corev1.EventTypeWarning, "TooManyMissedTimes",
			"too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")
	}
	name := fmt.Sprintf("%s-%d", c.Name, due.Unix()/60)
	if _, taken := view.Get[*batchv1.Job](t.view, c.Namespace, name); taken {
		return // As Kubernetes: whoever made it is taken to have meant it.
	}
	if d := c.Spec.StartingDeadlineSeconds; d != nil && due.Add(kinds.Seconds(*d)).Before(t.now) {
		t.tell(corev1.EventTypeWarning, "MissSchedule", "Missed scheduled time to start a job: "+due.UTC().Format(time.RFC1123Z))
		return
	}
	if len(t.active) > 0 {
		switch c.Spec.ConcurrencyPolicy {
		case batchv1.ForbidConcurrent:
			t.tell(corev1.EventTypeNormal, "JobAlreadyActive",
				"Not starting job because prior execution is running and concurrency policy is Forbid")
			return
		case batchv1.ReplaceConcurrent:
			if t.replace(due) {
				return // The next is made in the turn after they are gone.
			}
		}
	}
	t.want(name, due, zone)
}

// replace drops the jobs that have not ended, and says whether there was one that is not going already.
func (t *turn) replace(due time.Time) (any bool) {
	for _, j := range t.active {
		if j.DeletionTimestamp == nil {
			t.drop(j, "replaced by the job of "+due.UTC().Format(time.RFC3339))
			any = true
		}
	}
	return any
}

func (t *turn) want(name string, due time.Time, zone *time.Location) {
	template := t.cron.Spec.JobTemplate.DeepCopy()
	annotations := maps.Clone(template.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[batchv1.CronJobScheduledTimestampAnnotation] = due.In(zone).Format(time.RFC3339)
	t.decision.Wants = append(t.decision.Wants, loop.Want{
		Object: &batchv1.Job{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: t.cron.Namespace, Name: name, Labels: template.Labels, Annotations: annotations,
				OwnerReferences: []metav1.OwnerReference{loop.ControllerRef(t.cron)},
			},
			Spec: template.Spec,
		},
		Reason: "due at " + due.UTC().Format(time.RFC3339),
		Done:   &loop.Event{Type: corev1.EventTypeNormal, Reason: "SuccessfulCreate", Message: "Created job {name}"},
		Failed: &loop.Event{Type: corev1.EventTypeWarning, Reason: "FailedCreate", Message: "Error creating job: {cause}"},
	})
}

// forget drops the oldest jobs that have ended, beyond the limits of the history.
func (t *turn) forget() {
	for kind, limit := range map[batchv1.JobConditionType]*int32{
		batchv1.JobComplete: t.cron.Spec.SuccessfulJobsHistoryLimit, batchv1.JobFailed: t.cron.Spec.FailedJobsHistoryLimit,
	} {
		if limit == nil {
			continue
		}
		var ended []*batchv1.Job
		for _, j := range t.jobs {
			if c := kinds.JobFinished(j); c != nil && c.Type == kind && !t.unnoted[j.UID] {
				ended = append(ended, j)
			}
		}
		slices.SortFunc(ended, func(a, b *batchv1.Job) int {
			return cmp.Or(start(a).Compare(start(b)), strings.Compare(a.Name, b.Name))
		})
		for _, j := range ended[:max(0, len(ended)-int(*limit))] {
			t.drop(j, fmt.Sprintf("more than %d of the history", *limit))
		}
	}
}

func start(j *batchv1.Job) time.Time {
	if j.Status.StartTime == nil {
		return time.Time{}
	}
	return j.Status.StartTime.Time
}

func (t *turn) drop(j *batchv1.Job, reason string) {
	d := loop.DropOf(j, reason)
	d.Done = &loop.Event{Type: corev1.EventTypeNormal, Reason: "SuccessfulDelete", Message: "Deleted job {name}"}
	t.decision.Drops = append(t.decision.Drops, d)
	t.dropped[j.UID] = true
	t.status.Active = slices.DeleteFunc(t.status.Active, func(r corev1.ObjectReference) bool { return r.UID == j.UID })
}

func (t *turn) tell(kind, reason, message string) {
	t.decision.Events = append(t.decision.Events, loop.Event{Type: kind, Reason: reason, Message: message})
}

// store wants the status, if it has changed.
func (t *turn) store() {
	if equality.Semantic.DeepEqual(*t.status, t.cron.Status) {
		return
	}
	changed := t.cron.DeepCopy()
	changed.Status = *t.status
	t.decision.Status = changed
}
