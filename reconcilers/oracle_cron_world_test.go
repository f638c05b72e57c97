package reconcilers

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"lockstep/kinds"
	"lockstep/kinds/strategy"
)

// cronWorld is a cron job with its jobs, and an API server as far as a controller of cron jobs has to do with one.
type cronWorld struct {
	oracleAPI
	cron  *batchv1.CronJob
	jobs  map[string]*batchv1.Job
	count int
	// made and gone are the jobs that were made, as they were wanted, and deleted since the last comparison.
	made, gone []string
	// ended are the jobs that Kubernetes' controller has deleted, whether it was told or, of many, left out.
	ended map[string]bool
}

func newCronWorld(c *batchv1.CronJob) *cronWorld {
	plain := func(text string) string { return text }
	return &cronWorld{oracleAPI: newOracleAPI(plain), cron: c.DeepCopy(), jobs: map[string]*batchv1.Job{}, ended: map[string]bool{}}
}

func (w *cronWorld) create(o *batchv1.Job) *batchv1.Job {
	j := stored(o)
	j.Namespace, j.CreationTimestamp = "shop", metav1.Time{}
	strategy.Default(j)
	w.made = append(w.made, "made "+toJSON(j))
	w.count++
	j.UID, j.ResourceVersion = types.UID(fmt.Sprint("job-", w.count)), w.next()
	j.CreationTimestamp = metav1.NewTime(time.Now().Truncate(time.Second))
	w.jobs[j.Name] = j
	w.show(watch.Added, j)
	return j.DeepCopy()
}

// change stores another state of a job.
func (w *cronWorld) change(name string, to func(*batchv1.Job)) {
	j := w.jobs[name].DeepCopy()
	to(j)
	j.ResourceVersion = w.next()
	w.jobs[name] = j
	w.show(watch.Modified, j)
}

// delete deletes a job at once, or has it wait for what holds it.
func (w *cronWorld) delete(name string) {
	j := w.jobs[name]
	if len(j.Finalizers) > 0 {
		if j.DeletionTimestamp == nil {
			w.gone = append(w.gone, "deleted "+name)
			w.change(name, func(j *batchv1.Job) { j.DeletionTimestamp = new(metav1.NewTime(time.Now().Truncate(time.Second))) })
		}
		return
	}
	w.gone = append(w.gone, "gone "+name)
	delete(w.jobs, name)
	w.next()
	w.show(watch.Deleted, j)
}

// store stores the status; push another spec.
func (w *cronWorld) store(c *batchv1.CronJob) {
	status := stored(c).Status
	w.touch(func(c *batchv1.CronJob) { c.Status = status })
}

func (w *cronWorld) touch(to func(*batchv1.CronJob)) {
	changed := w.cron.DeepCopy()
	to(changed)
	changed.ResourceVersion = w.next()
	w.cron = changed
	w.show(watch.Modified, changed)
}

func (w *cronWorld) lines() []string {
	out := append(slices.Sorted(slices.Values(w.made)), slices.Sorted(slices.Values(w.gone))...)
	for _, name := range slices.Sorted(maps.Keys(w.jobs)) {
		j := w.jobs[name]
		line := fmt.Sprintf("job %s of %s", name, j.CreationTimestamp.Format(time.DateTime))
		if end := kinds.JobFinished(j); end != nil {
			line += " " + string(end.Type)
		}
		out = append(out, line)
	}
	s := stored(&w.cron.Status)
	for i := range s.Active {
		s.Active[i].ResourceVersion = "" // which of a job's states was seen first is chance
	}
	return append(out, toJSON(s))
}

var (
	cronSchedules = []string{
		"* * * * *", "*/5 * * * *", "30 */2 * * *", "0 6-16/4 * * 1-5", "15,45 1-3 * * *", "30 2 * * *", "0 0 1 * *",
		"@hourly", "@daily", "@every 90s", "@every 1h30m", "0 0 30 2 *",
	}
	cronZones    = []string{"", "", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kolkata", "Mars/Phobos"}
	cronPolicies = []batchv1.ConcurrencyPolicy{batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent}
)

func randomCron(r *rand.Rand) *batchv1.CronJob {
	c := &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "sums", UID: "the-cron", Generation: 1, ResourceVersion: "1",
			CreationTimestamp: metav1.NewTime(time.Now().Truncate(time.Second)),
		},
	}
	s := &c.Spec
	s.Schedule, s.ConcurrencyPolicy = cronSchedules[r.IntN(len(cronSchedules)-1)], cronPolicies[r.IntN(len(cronPolicies))]
	s.Suspend, s.TimeZone = new(r.IntN(8) == 0), randomZone(r)
	s.SuccessfulJobsHistoryLimit, s.FailedJobsHistoryLimit = randomLimit(r), randomLimit(r)
	s.StartingDeadlineSeconds = randomDeadline(r)
	s.JobTemplate.Labels = map[string]string{"app": "sums"}
	if r.IntN(2) == 0 {
		s.JobTemplate.Annotations = map[string]string{"a": "b"}
	}
	s.JobTemplate.Spec.BackoffLimit = new(int32(0))
	s.JobTemplate.Spec.Template.Spec = corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "main", Image: "one"}},
	}
	strategy.Default(c)
	return c
}

func randomZone(r *rand.Rand) *string {
	// A zone that is unknown is refused when it is pushed; one that is known may be so no longer.
	if zone := cronZones[r.IntN(len(cronZones))]; zone != "" && (zone != "Mars/Phobos" || r.IntN(4) == 0) {
		return &zone
	}
	return nil
}

func randomLimit(r *rand.Rand) *int32 {
	if r.IntN(6) == 0 {
		return nil
	}
	return new(r.Int32N(4))
}

func randomDeadline(r *rand.Rand) *int64 {
	if r.IntN(2) == 0 {
		return nil
	}
	return new([]int64{0, 5, 60, 200, 5000, 100_000}[r.IntN(6)])
}
