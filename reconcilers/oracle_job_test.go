package reconcilers

import (
	"context"
	"errors"
	"fmt"
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
	upstream "k8s.io/kubernetes/pkg/controller/job"

	"lockstep/internal/short"
	"lockstep/kinds"
	"lockstep/reconcilers/engine"
	"lockstep/reconcilers/job"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// TestJobIsKubernetes lets Kubernetes' own controller run a job in one world and ours the same in another, in time that is made up.
// The same happens to both: pods start, end, fail, are deleted or evicted, the job is suspended, goes on, is to have more pods
// or fewer. Whenever both have come to rest the pods must be the same, made at the same second, and so must be the status, its
// conditions and what is told. What Kubernetes counts by finalizers is not compared, nor are names.
func TestJobIsKubernetes(t *testing.T) {
	// It gathers what happens for a second, and after a conflict it waits for one.
	period, pause, handlers := upstream.SyncJobBatchPeriod, upstream.DefaultJobApiBackOff, utilruntime.ErrorHandlers
	upstream.SyncJobBatchPeriod, upstream.DefaultJobApiBackOff, utilruntime.ErrorHandlers = 0, 0, nil
	defer func() {
		upstream.SyncJobBatchPeriod, upstream.DefaultJobApiBackOff, utilruntime.ErrorHandlers = period, pause, handlers
	}()
	ended := map[string]int{}
	for seed := range short.Of(250) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newJobHistory(t, seed)
				h.compare(t, time.Now())
				for range 60 {
					h.happen(t)
					h.pass(t)
					if c := kinds.JobFinished(h.ours.job); c != nil {
						ended[c.Reason]++
						break
					}
					if why := h.differs(); why != "" {
						ended[why]++
						break
					}
				}
				if h.differs() == "" {
					told(t, &h.theirs.oracleAPI, &h.ours.oracleAPI, func(string) bool { return false }, h)
				}
			})
		})
	}
	t.Logf("jobs ended so: %v", ended)
	for _, reason := range []string{
		batchv1.JobReasonCompletionsReached, batchv1.JobReasonBackoffLimitExceeded, batchv1.JobReasonDeadlineExceeded,
		batchv1.JobReasonMaxFailedIndexesExceeded, batchv1.JobReasonFailedIndexes, batchv1.JobReasonSuccessPolicy,
		batchv1.JobReasonPodFailurePolicy,
	} {
		if ended[reason] == 0 && !testing.Short() {
			t.Errorf("no job ended for %s", reason)
		}
	}
}

// jobHistory is what happens to a job of Kubernetes and to ours.
type jobHistory struct {
	seed         uint64
	rand         *rand.Rand
	ours, theirs *jobWorld
	again        time.Time
	ended        bool // a pod has, or is about to
	log          []string
}

func newJobHistory(t *testing.T, seed uint64) *jobHistory {
	r := rand.New(rand.NewPCG(seed, 29))
	j := randomJob(r)
	h := &jobHistory{seed: seed, rand: r, ours: newJobWorld(j), theirs: newJobWorld(j)}
	h.ours.holds = func(p *corev1.Pod) bool { return len(p.Finalizers) > 0 || kinds.JobHolds(h.ours.job, p) }
	h.theirs.holds = func(p *corev1.Pod) bool { return len(p.Finalizers) > 0 }
	h.theirs.watched(t)
	return h
}

// watched has Kubernetes' controller look after a world.
func (w *jobWorld) watched(t *testing.T) {
	client := fake.NewClientset()
	// A turn of the controller writes a few times for each of at most a dozen pods.
	pods, jobs := watch.NewFakeWithChanSize(10_000, false), watch.NewFakeWithChanSize(10_000, false)
	w.show = func(kind watch.EventType, o runtime.Object) {
		if _, ok := o.(*corev1.Pod); ok {
			pods.Action(kind, o.DeepCopyObject())
		} else {
			jobs.Action(kind, o.DeepCopyObject())
		}
	}
	client.PrependWatchReactor("pods", k8stesting.DefaultWatchReactor(pods, nil))
	client.PrependWatchReactor("jobs", k8stesting.DefaultWatchReactor(jobs, nil))
	client.PrependReactor("*", "*", w.react)
	factory := informers.NewSharedInformerFactory(client, 0)
	ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), klog.Logger{}))
	c, err := upstream.NewController(ctx, client, factory.Core().V1().Pods(), factory.Batch().V1().Jobs(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	runs(ctx, t, cancel, factory, c.Run)
}

// react is the API server of Kubernetes' controller.
func (w *jobWorld) react(a k8stesting.Action) (bool, runtime.Object, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch a := a.(type) {
	case k8stesting.DeleteAction:
		w.delete(a.GetName())
	case k8stesting.PatchAction:
		if a.GetResource().Resource == "events" { // one that has been told before
			w.tellings++
			return true, &corev1.Event{}, nil
		}
		p := w.pods[a.GetName()]
		if p == nil {
			return true, nil, apierrors.NewNotFound(a.GetResource().GroupResource(), a.GetName())
		}
		p = p.DeepCopy()
		p.Finalizers = slices.DeleteFunc(p.Finalizers, func(f string) bool { return f == batchv1.JobTrackingFinalizer })
		w.put(p)
		return true, p, nil
	case k8stesting.UpdateAction:
		if j, ok := a.GetObject().(*batchv1.Job); ok {
			if j.ResourceVersion != w.job.ResourceVersion {
				return true, nil, apierrors.NewConflict(a.GetResource().GroupResource(), j.Name, errors.New("it has changed"))
			}
			w.store(j)
			return true, w.job.DeepCopy(), nil
		}
		return w.created(a.GetObject())
	case k8stesting.ListAction:
		if a.GetResource().Resource == "jobs" {
			return true, &batchv1.JobList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}, Items: []batchv1.Job{*w.job}}, nil
		}
		return true, &corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}}, nil
	case k8stesting.GetAction:
		return true, w.job.DeepCopy(), nil
	}
	return true, nil, nil
}

func (w *jobWorld) created(o runtime.Object) (bool, runtime.Object, error) {
	switch o := o.(type) {
	case *corev1.Pod:
		return true, w.create(o), nil
	case *corev1.Event:
		w.tell(o.Type, o.Reason, o.Message)
	}
	return true, o, nil
}

// settle lets ours decide, and carries it out, until it wants nothing more of this moment.
func (h *jobHistory) settle(t *testing.T, now time.Time) {
	t.Helper()
	w, r := h.ours, job.New()
	for range 50 {
		before := w.version
		key := kinds.KeyOf(w.job)
		objects := []kinds.Object{w.job}
		for _, p := range w.pods {
			objects = append(objects, p)
		}
		v := view.Of(objects...)
		d, err := r.Decide(v.Only(r.Sees()), key, now)
		if err == nil {
			err = engine.Check(r, v, key, d)
		}
		if err != nil {
			t.Fatalf("%v\nof\n%s", err, h)
		}
		w.carryOut(v, d)
		h.again = d.Again
		if w.version == before {
			return
		}
	}
	t.Fatalf("it goes on and on\n%s", h)
}

func (w *jobWorld) carryOut(v *view.View, d loop.Decision) {
	for _, want := range d.Wants {
		p := want.Object.(*corev1.Pod)
		if p.UID == "" {
			w.tellOf(want.Done, w.create(p).Name)
		} else if len(engine.Changes(v.Get(kinds.KeyOf(p)), p)) > 0 {
			w.put(p.DeepCopy())
		}
	}
	for _, drop := range d.Drops {
		w.delete(drop.Key.Name)
		w.tellOf(drop.Done, drop.Key.Name)
	}
	if d.Status != nil {
		w.store(d.Status.(*batchv1.Job))
	}
	for i := range d.Events {
		w.tellOf(&d.Events[i], "")
	}
}

// compare wants both to have made the same of a moment.
func (h *jobHistory) compare(t *testing.T, now time.Time) {
	t.Helper()
	synctest.Wait()
	h.settle(t, now)
	if h.differs() != "" {
		return
	}
	theirs, ours := h.theirs.lines(), h.ours.lines()
	h.log = append(h.log, now.Format("15:04:05.000")+"\n\t"+strings.Join(ours[len(h.ours.made):], "\n\t"))
	if diff := cmp.Diff(theirs, ours); diff != "" {
		t.Fatalf("%s: Kubernetes (-) and ours (+)\n%s\nof\n%s", now.Format("15:04:05.000"), diff, h)
	}
	h.ours.made, h.theirs.made = nil, nil
}

// differs says by which known difference, of those that docs/reconcilers.md tells, both go different ways from here; empty: by none.
func (h *jobHistory) differs() string {
	end := kinds.JobCondition(h.theirs.job, batchv1.JobFailureTarget)
	switch {
	case h.ours.job.Spec.BackoffLimitPerIndex == nil && h.ours.gone:
		return "a pause after a pod that is gone"
	case h.ours.givenUp:
		return "failures of an index whose last pod was given up"
	case end != nil && end.Reason == batchv1.JobReasonPodFailurePolicy && h.ours.failedLate():
		return "a pod that was given up and then failed"
	case kinds.JobFinished(h.theirs.job) != nil && h.theirs.job.Status.StartTime == nil:
		return "an end without a start, which Kubernetes' API server refuses"
	}
	return ""
}

// failedLate says that a pod which was given up has failed.
func (w *jobWorld) failedLate() bool {
	for _, p := range w.pods {
		if p.Status.Phase == corev1.PodFailed && p.Annotations[kinds.LetGo] != "" {
			return true
		}
	}
	return false
}

// pass lets time pass. Ours is asked again when it wants to be, and both are compared then.
func (h *jobHistory) pass(t *testing.T) {
	for end := time.Now().Truncate(time.Second).Add(time.Duration(h.seconds()) * time.Second); ; {
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

func (h *jobHistory) seconds() int {
	return []int{1, 2, 5, 10, 11, 30, 100}[h.rand.IntN(7)]
}

func (h *jobHistory) String() string {
	return fmt.Sprintf("seed %d: %s\n%s", h.seed, plainJob(h.ours.job), strings.Join(h.log, "\n"))
}

func plainJob(j *batchv1.Job) string {
	s := j.Spec.DeepCopy()
	s.Template, s.Selector = corev1.PodTemplateSpec{}, nil
	return toJSON(s)
}
