package reconcilers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/klog/v2"
	upstream "k8s.io/kubernetes/pkg/controller/cronjob"

	"lockstep/internal/short"
	"lockstep/kinds"
	"lockstep/reconcilers/cronjob"
	"lockstep/reconcilers/engine"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// TestCronJobIsKubernetes lets Kubernetes' own controller run a cron job in one world and ours the same in another, in time that is
// made up and passes the days on which clocks are changed. The same happens to both: jobs end, run on, are deleted; the cron job is
// suspended, goes on, gets another schedule, zone, deadline, policy, template or limits of its history; the controllers are away.
// Whenever both have come to rest the jobs that were made and deleted must be the same, and so must be the status and what is told.
func TestCronJobIsKubernetes(t *testing.T) {
	local, handlers := time.Local, utilruntime.ErrorHandlers
	time.Local, utilruntime.ErrorHandlers = time.UTC, nil // where no zone is stated Kubernetes takes the machine's
	defer func() { time.Local, utilruntime.ErrorHandlers = local, handlers }()
	made, seen := 0, map[string]int{}
	for seed := range short.Of(250) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newCronHistory(t, seed)
				h.start(t)
				for range 60 {
					h.happen(t)
					h.pass(t)
				}
				h.stop(t)
				made += h.ours.count
				for what, n := range h.seen {
					seen[what] += n
				}
			})
		})
	}
	t.Logf("%d jobs were made; seen: %v", made, seen)
	if !testing.Short() {
		for _, what := range append([]string{lateSchedule}, cronReasons...) {
			if seen[what] == 0 {
				t.Errorf("never seen: %s", what)
			}
		}
	}
}

// lateSchedule is how both differ, as docs/reconcilers.md tells, until anything wakes Kubernetes' controller.
const lateSchedule = "a time that had passed when the schedule was changed"

// cronReasons are what is told of cron jobs.
var cronReasons = []string{
	"SuccessfulCreate", "SuccessfulDelete", "SawCompletedJob", "MissingJob", "JobAlreadyActive", "TooManyMissedTimes",
	"InvalidSchedule", "UnknownTimeZone",
}

// cronHistory is what happens to a cron job of Kubernetes and to ours.
type cronHistory struct {
	seed         uint64
	rand         *rand.Rand
	ours, theirs *cronWorld
	again        time.Time
	end          func() // of Kubernetes' controller
	rescheduled  bool
	seen         map[string]int
	log          []string
}

func newCronHistory(t *testing.T, seed uint64) *cronHistory {
	r := rand.New(rand.NewPCG(seed, 37))
	day := []time.Time{
		time.Date(2000, 3, 25, 0, 0, 0, 0, time.UTC), time.Date(2000, 4, 1, 0, 0, 0, 0, time.UTC),
		time.Date(2000, 8, 26, 0, 0, 0, 0, time.UTC), time.Date(2000, 10, 28, 0, 0, 0, 0, time.UTC),
	}[r.IntN(4)]
	time.Sleep(time.Until(day.Add(time.Duration(r.IntN(36*3600)) * time.Second)))
	c := randomCron(r)
	return &cronHistory{seed: seed, rand: r, ours: newCronWorld(c), theirs: newCronWorld(c), seen: map[string]int{}}
}

// start lets Kubernetes' controller and ours run, until stop.
func (h *cronHistory) start(t *testing.T) {
	w := h.theirs
	client := fake.NewClientset()
	// A turn of the controller writes a few times for each of at most some dozens of jobs.
	jobs, crons := watch.NewFakeWithChanSize(10_000, false), watch.NewFakeWithChanSize(10_000, false)
	w.show = func(kind watch.EventType, o runtime.Object) {
		if _, ok := o.(*batchv1.Job); ok {
			jobs.Action(kind, o.DeepCopyObject())
		} else {
			crons.Action(kind, o.DeepCopyObject())
		}
	}
	client.PrependWatchReactor("jobs", k8stesting.DefaultWatchReactor(jobs, nil))
	client.PrependWatchReactor("cronjobs", k8stesting.DefaultWatchReactor(crons, nil))
	client.PrependReactor("*", "*", w.react)
	factory := informers.NewSharedInformerFactory(client, 0)
	ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), klog.Logger{}))
	c, err := upstream.NewControllerV2(ctx, factory.Batch().V1().Jobs(), factory.Batch().V1().CronJobs(), client)
	if err != nil {
		t.Fatal(err)
	}
	h.end = runs(ctx, t, cancel, factory, c.Run)
	h.compare(t, time.Now())
}

// stop ends both, and compares what they have told.
func (h *cronHistory) stop(t *testing.T) {
	h.end()
	h.theirs.show = func(watch.EventType, runtime.Object) {}
	stale := func(e string) bool {
		reason, words := strings.Fields(e)[1], strings.Fields(e)
		switch reason {
		case "MissingJob": // it has deleted this one itself
			return h.theirs.ended[words[len(words)-1]]
		case "SawCompletedJob":
			return h.theirs.ended[strings.TrimSuffix(words[5], ",")]
		case "FailedDelete", "FailedGet", "UnexpectedJob":
			return true
		}
		return false
	}
	told(t, &h.theirs.oracleAPI, &h.ours.oracleAPI, stale, h)
	for _, w := range []*cronWorld{h.ours, h.theirs} {
		w.tellings = 0
		for e := range w.said {
			h.seen[strings.Fields(e)[1]]++
		}
		clear(w.said)
		clear(w.ended)
	}
}

// react is the API server of Kubernetes' controller.
func (w *cronWorld) react(a k8stesting.Action) (bool, runtime.Object, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	resource := a.GetResource()
	switch a := a.(type) {
	case k8stesting.DeleteAction:
		if w.jobs[a.GetName()] == nil {
			return true, nil, apierrors.NewNotFound(resource.GroupResource(), a.GetName())
		}
		w.ended[a.GetName()] = true
		w.delete(a.GetName())
	case k8stesting.PatchAction: // an event that has been told before
		w.tellings++
		return true, &corev1.Event{}, nil
	case k8stesting.UpdateAction:
		switch o := a.GetObject().(type) {
		case *batchv1.CronJob:
			if o.ResourceVersion != w.cron.ResourceVersion {
				return true, nil, apierrors.NewConflict(resource.GroupResource(), o.Name, errors.New("it has changed"))
			}
			w.store(o)
			return true, w.cron.DeepCopy(), nil
		case *batchv1.Job:
			if w.jobs[o.Name] != nil {
				return true, nil, apierrors.NewAlreadyExists(resource.GroupResource(), o.Name)
			}
			return true, w.create(o), nil
		case *corev1.Event:
			w.tell(o.Type, o.Reason, o.Message)
			return true, o, nil
		}
	case k8stesting.ListAction:
		list := metav1.ListMeta{ResourceVersion: "1"}
		if resource.Resource == "cronjobs" {
			return true, &batchv1.CronJobList{ListMeta: list, Items: []batchv1.CronJob{*w.cron}}, nil
		}
		out := &batchv1.JobList{ListMeta: list}
		for _, j := range w.jobs {
			out.Items = append(out.Items, *j.DeepCopy())
		}
		return true, out, nil
	case k8stesting.GetAction:
		if resource.Resource == "cronjobs" {
			return true, w.cron.DeepCopy(), nil
		}
		if j := w.jobs[a.GetName()]; j != nil {
			return true, j.DeepCopy(), nil
		}
		return true, nil, apierrors.NewNotFound(resource.GroupResource(), a.GetName())
	}
	return true, nil, nil
}

// settle lets ours decide, and carries it out, until it wants nothing more of this moment.
func (h *cronHistory) settle(t *testing.T, now time.Time) {
	t.Helper()
	w, r := h.ours, cronjob.New()
	for range 50 {
		before := w.version
		key := kinds.KeyOf(w.cron)
		objects := []kinds.Object{w.cron}
		for _, j := range w.jobs {
			objects = append(objects, j)
		}
		v := view.Of(objects...)
		d, err := r.Decide(v.Only(r.Sees()), key, now)
		if err == nil {
			err = engine.Check(r, v, key, d)
		}
		if err != nil {
			t.Fatalf("%v\nof\n%s", err, h)
		}
		w.carryOut(d)
		h.again = d.Again
		if w.version == before {
			return
		}
	}
	t.Fatalf("it goes on and on\n%s", h)
}

func (w *cronWorld) carryOut(d loop.Decision) {
	for _, want := range d.Wants {
		if j := want.Object.(*batchv1.Job); j.UID == "" {
			w.tellOf(want.Done, w.create(j).Name)
		}
	}
	for _, drop := range d.Drops {
		w.delete(drop.Key.Name)
		w.tellOf(drop.Done, drop.Key.Name)
	}
	if d.Status != nil {
		w.store(d.Status.(*batchv1.CronJob))
	}
	for i := range d.Events {
		w.tellOf(&d.Events[i], "")
	}
}

// compare wants both to have made the same of a moment.
func (h *cronHistory) compare(t *testing.T, now time.Time) {
	t.Helper()
	synctest.Wait()
	h.settle(t, now)
	theirs, ours := h.theirs.lines(), h.ours.lines()
	h.log = append(h.log, now.Format("2006-01-02 15:04:05.000")+"\n\t"+strings.Join(ours, "\n\t"))
	diff := cmp.Diff(theirs, ours)
	if diff != "" && h.rescheduled && len(h.ours.made) > 0 && len(h.theirs.made) == 0 {
		h.seen[lateSchedule]++
		h.rescheduled = false
		h.both(t, func(w *cronWorld) { w.touch(func(*batchv1.CronJob) {}) })
		return
	}
	if diff != "" {
		t.Fatalf("%s: Kubernetes (-) and ours (+)\n%s\nof\n%s", now, diff, h)
	}
	for _, w := range []*cronWorld{h.ours, h.theirs} {
		w.made, w.gone = nil, nil
	}
}

// both lets the same happen in both worlds.
func (h *cronHistory) both(t *testing.T, act func(*cronWorld)) {
	t.Helper()
	h.act(act)
	h.compare(t, time.Now())
}

func (h *cronHistory) act(act func(*cronWorld)) {
	for _, w := range []*cronWorld{h.ours, h.theirs} {
		w.mu.Lock()
		act(w)
		w.mu.Unlock()
	}
}

// happen lets something happen to the cron job and to its jobs, one thing after the other.
func (h *cronHistory) happen(t *testing.T) {
	r := h.rand
	if r.IntN(8) == 0 {
		h.away(t)
	}
	if to := h.pushed(); to != nil {
		old := h.ours.cron.Spec
		h.act(func(w *cronWorld) {
			w.touch(func(c *batchv1.CronJob) {
				to(&c.Spec)
				c.Generation++
			})
		})
		h.log = append(h.log, "push "+plainCron(h.ours.cron))
		is := h.ours.cron.Spec
		h.rescheduled = old.Schedule != is.Schedule || !cmp.Equal(old.TimeZone, is.TimeZone)
		h.compare(t, time.Now())
		if h.rescheduled { // it tells nothing of it until something wakes it
			h.both(t, func(w *cronWorld) { w.touch(func(*batchv1.CronJob) {}) })
		}
		h.rescheduled = false
	}
	for _, name := range slices.Sorted(maps.Keys(h.ours.jobs)) {
		if act := h.fate(name); act != nil {
			h.both(t, act)
		}
	}
}

// away has both controllers away for a while, in which what jobs do is not seen.
func (h *cronHistory) away(t *testing.T) {
	h.stop(t)
	for range h.rand.IntN(3) {
		nap := h.while(120, 50*24*time.Hour)
		if early := h.again.Add(-10 * time.Second); early.After(time.Now()) && h.rand.IntN(2) == 0 {
			nap = time.Until(early)
		}
		time.Sleep(nap.Truncate(time.Second)) // half seconds remain
		for _, name := range slices.Sorted(maps.Keys(h.ours.jobs)) {
			if act := h.fate(name); act != nil {
				h.act(act)
			}
		}
	}
	h.log = append(h.log, "back")
	h.ours.gone, h.theirs.gone = nil, nil
	h.start(t)
}

// pushed is what a push changes; nil: nothing is pushed.
func (h *cronHistory) pushed() func(*batchv1.CronJobSpec) {
	r := h.rand
	schedule, zone := cronSchedules[r.IntN(len(cronSchedules))], randomZone(r)
	policy, deadline, limit := cronPolicies[r.IntN(len(cronPolicies))], randomDeadline(r), randomLimit(r)
	suspend := !*h.ours.cron.Spec.Suspend
	switch n := r.IntN(60); {
	case n < 2, suspend == false && n < 12:
		return func(s *batchv1.CronJobSpec) { s.Suspend = &suspend }
	case n < 15:
		return func(s *batchv1.CronJobSpec) { s.Schedule = schedule }
	case n < 17, h.ours.cron.Spec.TimeZone != nil && *h.ours.cron.Spec.TimeZone == "Mars/Phobos" && n < 30:
		return func(s *batchv1.CronJobSpec) { s.TimeZone = zone }
	case n < 19:
		return func(s *batchv1.CronJobSpec) { s.ConcurrencyPolicy = policy }
	case n < 21:
		return func(s *batchv1.CronJobSpec) { s.StartingDeadlineSeconds = deadline }
	case n < 23:
		return func(s *batchv1.CronJobSpec) { s.SuccessfulJobsHistoryLimit = limit }
	case n < 25:
		return func(s *batchv1.CronJobSpec) { s.FailedJobsHistoryLimit = limit }
	case n < 26:
		return func(s *batchv1.CronJobSpec) { s.JobTemplate.Labels = map[string]string{"app": fmt.Sprint("sums-", n)} }
	}
	return nil
}

// fate is what happens to a job next; nil: nothing.
func (h *cronHistory) fate(name string) func(*cronWorld) {
	j := h.ours.jobs[name]
	if j == nil {
		return nil // what happened to another let it go
	}
	now := metav1.NewTime(time.Now().Truncate(time.Second))
	ended := func(kind batchv1.JobConditionType) func(*cronWorld) {
		return func(w *cronWorld) {
			w.change(name, func(j *batchv1.Job) {
				j.Status.Conditions = []batchv1.JobCondition{{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: now}}
				if kind == batchv1.JobComplete {
					j.Status.CompletionTime = &now
				}
			})
		}
	}
	switch n := h.rand.IntN(40); {
	case kinds.JobFinished(j) != nil:
		if n == 0 { // its TTL is over
			return func(w *cronWorld) { w.delete(name) }
		}
	case n == 0: // by hand
		return func(w *cronWorld) { w.delete(name) }
	case j.Status.StartTime == nil && n < 30:
		return func(w *cronWorld) { w.change(name, func(j *batchv1.Job) { j.Status.StartTime = &now }) }
	case n < 16:
		return ended(batchv1.JobComplete)
	case n < 20, len(h.ours.jobs) > 20: // of many, those that run on fail
		return ended(batchv1.JobFailed)
	}
	return nil
}

// pass lets time pass, not long: Kubernetes' queues have a heartbeat. Ours is asked again when it wants to be, and both are
// compared then. It ends half a second after a whole one: Kubernetes looks a little later than a job is due.
func (h *cronHistory) pass(t *testing.T) {
	for end := time.Now().Add(h.while(3, time.Hour)).Truncate(time.Second).Add(500 * time.Millisecond); ; {
		next := end
		if h.again.After(time.Now()) && h.again.Before(end) {
			next = h.again
		}
		time.Sleep(time.Until(next.Add(time.Millisecond))) // its timers are due at the same moment
		h.compare(t, next)
		if next.Equal(end) {
			return
		}
	}
}

// while is some time: seconds, or up to so many times as long as until the next job is due, and no longer than bound.
func (h *cronHistory) while(most float64, bound time.Duration) time.Duration {
	gap := time.Until(h.again)
	if h.rand.IntN(3) == 0 || gap < 0 {
		gap, most = 30*time.Second, 1
	}
	return time.Second + min(bound, time.Duration(h.rand.Float64()*most*float64(min(gap, 50*24*time.Hour))))
}

func (h *cronHistory) String() string {
	return fmt.Sprintf("seed %d: %s\n%s", h.seed, plainCron(h.ours.cron), strings.Join(h.log, "\n"))
}

func plainCron(c *batchv1.CronJob) string {
	s := c.Spec.DeepCopy()
	s.JobTemplate = batchv1.JobTemplateSpec{}
	return toJSON(s)
}
