package reconcilers

import (
	"fmt"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/util/parsers"

	"lockstep/internal/short"
	"lockstep/kinds"
	"lockstep/store/view"
)

// cronSim is a cluster with one cron job, and an account of the jobs that were made for it.
type cronSim struct {
	*jobSim
	// made are the jobs by the time that each is for; last is the newest of these.
	made map[time.Time]types.UID
	last time.Time
}

func (s *cronSim) cron() *batchv1.CronJob { return s.store.View().Get(s.key).(*batchv1.CronJob) }

// jobs are those that have not ended, and how many have ended so.
func (s *cronSim) jobs() (running int, ended map[batchv1.JobConditionType]int32) {
	ended = map[batchv1.JobConditionType]int32{}
	for j := range view.List[*batchv1.Job](s.store.View(), "shop") {
		if end := kinds.JobFinished(j); end != nil {
			ended[end.Type]++
		} else {
			running++
		}
	}
	return running, ended
}

// account looks at the store after a write.
func (s *cronSim) account() {
	c, ok := s.store.View().Get(s.key).(*batchv1.CronJob)
	if !ok {
		return
	}
	for j := range view.List[*batchv1.Job](s.store.View(), "shop") {
		at, err := time.Parse(time.RFC3339, j.Annotations[batchv1.CronJobScheduledTimestampAnnotation])
		if err != nil {
			s.t.Fatal(err)
		}
		at = at.UTC()
		if uid, again := s.made[at]; again {
			if uid != j.UID {
				s.t.Fatalf("a second job was made for %v", at)
			}
			continue
		}
		s.made[at] = j.UID
		late := s.clock.Now().Sub(at)
		switch d := c.Spec.StartingDeadlineSeconds; {
		case !at.After(s.last):
			s.t.Fatalf("a job was made for %v, after one for %v", at, s.last)
		case late < 0:
			s.t.Fatalf("a job for %v was made too early by %v", at, -late)
		case s.faults == 0 && d != nil && late > time.Duration(*d)*time.Second:
			s.t.Fatalf("a job for %v was made %v late, with a deadline of %d s", at, late, *d)
		case *c.Spec.Suspend:
			s.t.Fatalf("a job for %v was made while the cron job is suspended", at)
		case j.Spec.Completions == nil || j.Spec.BackoffLimit == nil || j.Spec.Selector == nil:
			s.t.Fatalf("a job was made without Kubernetes' defaults: %+v", j.Spec)
		}
		s.last = at
	}
	if running, _ := s.jobs(); running > 1 && c.Spec.ConcurrencyPolicy != batchv1.AllowConcurrent {
		s.t.Fatalf("%d jobs run at once, with %s", running, c.Spec.ConcurrencyPolicy)
	}
}

// rest goes on until nothing is left to do within the next seconds.
func (s *cronSim) rest() {
	for quiet := 0; quiet < 3; {
		wrote, looked := s.turn()
		if wrote || !looked && s.node() {
			quiet = 0
			continue
		} else if looked {
			continue
		}
		quiet++
		s.clock.Step(time.Second)
		s.beat()
	}
}

// TestCronJobs runs cron jobs of random shapes through random times: the control plane is away for hours, they are suspended and
// go on, their jobs fail, last too long, and race with turns whose outcome is not told. Never are there two jobs of one time, nor
// two at once where that is not allowed, nor one too early, too late or for a time before another's; and in the end each time
// that comes has its job, and the history is within its limits.
func TestCronJobs(t *testing.T) {
	made := 0
	for seed := range short.Of(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			s := &cronSim{
				jobSim: &jobSim{sim: newSim(t, seed), key: kinds.For[*batchv1.CronJob]().Key("shop", "sums")},
				made:   map[time.Time]types.UID{},
			}
			s.put(namespaceOf("shop"))
			s.settle()
			c := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "sums"}}
			c.Spec.Schedule = []string{"* * * * *", "*/3 * * * *", "30 */2 * * *", "@every 90s"}[s.rand.IntN(4)]
			c.Spec.ConcurrencyPolicy = []batchv1.ConcurrencyPolicy{
				batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent,
			}[s.rand.IntN(3)]
			c.Spec.Suspend = new(s.rand.IntN(5) == 0)
			c.Spec.SuccessfulJobsHistoryLimit, c.Spec.FailedJobsHistoryLimit = new(s.rand.Int32N(4)), new(s.rand.Int32N(3))
			if s.rand.IntN(2) == 0 {
				c.Spec.StartingDeadlineSeconds = new(s.rand.Int64N(300))
			}
			zone := ""
			if s.rand.IntN(2) == 0 {
				c.Spec.TimeZone, zone = new("America/New_York"), "TZ=America/New_York "
			}
			c.Spec.JobTemplate.Spec.BackoffLimit = new(int32(0))
			c.Spec.JobTemplate.Spec.Template.Spec = corev1.PodSpec{
				RestartPolicy: corev1.RestartPolicyNever,
				Containers:    []corev1.Container{{Name: "main", Image: "one"}},
			}
			if s.rand.IntN(8) == 0 {
				c.Spec.JobTemplate.Spec.BackoffLimit, c.Spec.JobTemplate.Spec.TTLSecondsAfterFinished = nil, new(int32(0))
			}
			s.fails, s.faults = s.rand.IntN(60), s.rand.IntN(5)
			s.check, s.acts = s.account, s.node
			s.put(c)
			for range 1500 {
				switch n := s.rand.IntN(1000); {
				case n < 3:
					s.clock.Step(time.Duration(s.rand.IntN(10*3600)) * time.Second)
					s.beat()
				case n < 8:
					changed := s.cron().DeepCopy()
					changed.Spec.Suspend = new(!*changed.Spec.Suspend)
					s.put(changed)
				case n < 250:
					s.clock.Step(time.Duration(s.rand.IntN(20)) * time.Second)
					s.beat()
				case n < 500:
					s.node()
				default:
					s.step.Step(t.Context())
				}
			}

			// Times of peace: every time that comes has its job.
			s.faults, s.fails = 0, 0
			changed := s.cron().DeepCopy()
			changed.Spec.Suspend, changed.Spec.StartingDeadlineSeconds = new(false), new(int64(300))
			s.put(changed)
			schedule, err := parsers.ParseCronScheduleWithPanicRecovery(zone + c.Spec.Schedule)
			if err != nil {
				t.Fatal(err)
			}
			s.rest()
			for running, _ := s.jobs(); running > 0; running, _ = s.jobs() {
				s.clock.Step(10 * time.Second)
				s.beat()
				s.rest()
			}
			from, at := s.clock.Now(), s.last // times of an "@every" count from the one before
			if at.IsZero() {
				at = s.cron().CreationTimestamp.Time
			}
			for range 40 {
				s.clock.Step(25 * time.Second)
				s.beat()
				s.rest()
			}
			for at = schedule.Next(at); at.Before(s.clock.Now().Add(-2 * time.Second)); at = schedule.Next(at) {
				if _, ok := s.made[at.UTC()]; !ok && at.After(from) {
					t.Errorf("%v had no job, of %q between %v and %v", at, c.Spec.Schedule, from, s.clock.Now())
				}
			}
			running, ended := s.jobs()
			if running > 1 || ended[batchv1.JobComplete] > *c.Spec.SuccessfulJobsHistoryLimit ||
				ended[batchv1.JobFailed] > *c.Spec.FailedJobsHistoryLimit {
				t.Errorf("%d run and %v have ended, of %d and %d that may stay", running, ended, *c.Spec.SuccessfulJobsHistoryLimit,
					*c.Spec.FailedJobsHistoryLimit)
			}
			if got := s.cron().Status.LastScheduleTime; got == nil && !s.last.IsZero() || got != nil && !got.Time.Equal(s.last) {
				t.Errorf("the last time is %v by the status, %v by the account", got, s.last)
			}
			made += len(s.made)
		})
	}
	if !testing.Short() && made < 900 {
		t.Errorf("%d jobs were made: too few to see anything", made)
	}
}
