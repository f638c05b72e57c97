package reconcilers

import (
	"fmt"
	"slices"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/internal/short"
	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/reconcilers/pods"
	"lockstep/store"
	"lockstep/store/view"
)

// jobSim is a cluster with one job, and an account of its pods that is kept by what is written alone.
type jobSim struct {
	*sim
	key kinds.Key
	// most is how many pods may be active, the largest that was ever stated.
	most int32
	// fails is how many pods of a hundred fail.
	fails int
	// ended says of each pod that counts whether it succeeded; index has the index of each.
	ended map[types.UID]bool
	index map[types.UID]string
	// late are those that ended well while they were being deleted, before it was written down that they had failed.
	late map[types.UID]bool
}

func (s *jobSim) job() *batchv1.Job {
	j, _ := s.store.View().Get(s.key).(*batchv1.Job)
	return j
}

// account looks at the store after a write.
func (s *jobSim) account() {
	j := s.job()
	if j == nil || kinds.JobCondition(j, batchv1.JobSuccessCriteriaMet) != nil || kinds.JobCondition(j, batchv1.JobFailureTarget) != nil {
		return
	}
	active := int32(0)
	for p := range view.List[*corev1.Pod](s.store.View(), "shop") {
		if pods.Active(p) {
			active++
		}
		if s.late[p.UID] && slices.Contains(uncounted(j).Failed, p.UID) {
			s.ended[p.UID] = false // it was decided before the end, and written after it
		}
		succeeded, counted := s.ended[p.UID]
		// One that ends well while it is being deleted counts as what the job first saw of it.
		unseen := counted && !succeeded && kinds.JobHolds(j, p)
		if counted && !unseen || p.Annotations[kinds.LetGo] != "" {
			continue
		}
		switch waits := *j.Spec.PodReplacementPolicy == batchv1.Failed; {
		case p.Status.Phase == corev1.PodSucceeded:
			s.ended[p.UID], s.late[p.UID] = true, unseen
			s.index[p.UID] = p.Labels[batchv1.JobCompletionIndexAnnotation]
		case p.Status.Phase == corev1.PodFailed, !waits && p.DeletionTimestamp != nil:
			s.ended[p.UID] = false
		}
	}
	if active > s.most {
		s.t.Fatalf("%d pods are active, of %d that may be", active, s.most)
	}
}

func uncounted(j *batchv1.Job) (u batchv1.UncountedTerminatedPods) {
	if j.Status.UncountedTerminatedPods != nil {
		u = *j.Status.UncountedTerminatedPods
	}
	return u
}

// counts are how many pods have succeeded and failed, and how many indexes have a pod that succeeded.
func (s *jobSim) counts() (succeeded, failed, indexes int32) {
	done := map[string]bool{}
	for uid, ok := range s.ended {
		if ok {
			succeeded++
			done[s.index[uid]] = true
		} else {
			failed++
		}
	}
	return succeeded, failed, int32(len(done))
}

// node makes one random step of one random pod of the job, as a node that nobody has to wait for.
func (s *jobSim) node() bool {
	var steps []func()
	for p := range view.List[*corev1.Pod](s.store.View(), "shop") {
		p := p.DeepCopy()
		save := func() { s.write(store.Write{Key: kinds.KeyOf(p), Object: p, If: store.Anyway, Reason: "node"}) }
		end := func() {
			p.Status.Phase = corev1.PodSucceeded
			code := int32(0)
			if s.rand.IntN(100) < s.fails {
				p.Status.Phase, code = corev1.PodFailed, 1
			}
			p.Status.Conditions = nil
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", State: corev1.ContainerState{
				Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: metav1.NewTime(s.clock.Now())},
			}}}
			save()
		}
		switch {
		case podstatus.Finished(&p.Status) && p.DeletionTimestamp == nil:
		case p.DeletionTimestamp != nil && (podstatus.Finished(&p.Status) || s.rand.IntN(2) == 0):
			if pods.HeldBy(s.store.View(), p) == nil {
				steps = append(steps, func() { s.write(store.Write{Key: kinds.KeyOf(p), If: store.Anyway, Reason: "node"}) })
			} else if !podstatus.Finished(&p.Status) {
				steps = append(steps, end)
			}
		case p.DeletionTimestamp != nil:
			steps = append(steps, end)
		case p.Spec.NodeName == "":
			steps = append(steps, func() { p.Spec.NodeName = fmt.Sprintf("n%d", s.rand.IntN(3)); save() })
		case !podstatus.Ready(&p.Status):
			steps = append(steps, func() { setReady(p, corev1.ConditionTrue, s.clock.Now()); save() })
		default:
			steps = append(steps, end)
		}
	}
	if len(steps) == 0 {
		return false
	}
	steps[s.rand.IntN(len(steps))]()
	return true
}

// disturb does what a job has to stand: a pod is evicted, the job is suspended or goes on, fewer or more may run.
func (s *jobSim) disturb() {
	j := s.job()
	if j == nil || kinds.JobFinished(j) != nil {
		return
	}
	switch s.rand.IntN(4) {
	case 0:
		var bound []kinds.Key
		for p := range view.List[*corev1.Pod](s.store.View(), "shop") {
			if pods.Active(p) && p.Spec.NodeName != "" {
				bound = append(bound, kinds.KeyOf(p))
			}
		}
		if len(bound) > 0 {
			s.delete(bound[s.rand.IntN(len(bound))])
		}
	case 1:
		changed := j.DeepCopy()
		suspend := !*j.Spec.Suspend
		changed.Spec.Suspend = &suspend
		s.put(changed)
	case 2:
		changed := j.DeepCopy()
		parallelism := int32(1 + s.rand.IntN(4))
		changed.Spec.Parallelism = &parallelism
		s.most = max(s.most, parallelism)
		s.put(changed)
	}
}

// TestJobs runs jobs of random shapes through random orders of events. After every single write no more pods are active than
// may be; and in the end the counts are those of an account that was kept of the pods alone, each counted once.
func TestJobs(t *testing.T) {
	ended := map[batchv1.JobConditionType]int{}
	for seed := range short.Of(300) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			s := &jobSim{
				sim: newSim(t, seed), key: kinds.For[*batchv1.Job]().Key("shop", "sum"),
				ended: map[types.UID]bool{}, index: map[types.UID]string{}, late: map[types.UID]bool{},
			}
			s.put(namespaceOf("shop"))
			s.settle()
			j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "sum", UID: "the-job"}}
			completions, limit := int32(1+s.rand.IntN(8)), int32(s.rand.IntN(30))
			s.most = int32(1 + s.rand.IntN(4))
			j.Spec.Completions, j.Spec.Parallelism, j.Spec.BackoffLimit = &completions, &s.most, &limit
			j.Spec.Parallelism = new(s.most)
			j.Spec.Suspend = new(s.rand.IntN(5) == 0)
			policy := []batchv1.PodReplacementPolicy{batchv1.TerminatingOrFailed, batchv1.Failed}[s.rand.IntN(2)]
			j.Spec.PodReplacementPolicy = &policy
			mode := []batchv1.CompletionMode{batchv1.NonIndexedCompletion, batchv1.IndexedCompletion}[s.rand.IntN(2)]
			j.Spec.CompletionMode = &mode
			if mode == batchv1.IndexedCompletion && s.rand.IntN(2) == 0 {
				j.Spec.BackoffLimit, j.Spec.BackoffLimitPerIndex = nil, new(int32(s.rand.IntN(4)))
			}
			j.Spec.Template.Spec = corev1.PodSpec{
				RestartPolicy: corev1.RestartPolicyNever,
				Containers:    []corev1.Container{{Name: "main", Image: "one"}},
			}
			s.fails, s.faults = s.rand.IntN(60), s.rand.IntN(5)
			s.check, s.acts = s.account, s.node
			s.put(j)
			for turns := 0; kinds.JobFinished(s.job()) == nil; turns++ {
				if turns > 20_000 {
					t.Fatalf("the job does not end: %+v", s.job().Status)
				}
				switch n := s.rand.IntN(100); {
				case n < 2 && turns < 2000:
					s.disturb()
				case n < 10:
					if turns >= 2000 && *s.job().Spec.Suspend {
						changed := s.job().DeepCopy()
						changed.Spec.Suspend = new(false)
						s.put(changed)
					}
					s.clock.Step(time.Duration(s.rand.IntN(20)) * time.Second)
					s.beat()
				case n < 50:
					s.node()
				default:
					s.step.Step(t.Context())
				}
			}
			got := s.job().Status
			end := kinds.JobFinished(s.job())
			ended[end.Type]++
			succeeded, failed, indexes := s.counts()
			if mode == batchv1.IndexedCompletion {
				succeeded = indexes
			}
			if end.Type == batchv1.JobComplete && (got.Succeeded != completions || succeeded != completions) {
				t.Errorf("complete with %d succeeded by its status and %d by the account, of %d", got.Succeeded, succeeded, completions)
			}
			if end.Type == batchv1.JobComplete && policy == batchv1.TerminatingOrFailed && got.Failed != failed {
				t.Errorf("%d have failed by its status, %d by the account", got.Failed, failed)
			}
			if got.Active != 0 || *got.Terminating != 0 {
				t.Errorf("ended with pods: %+v", got)
			}
		})
	}
	if !testing.Short() && (ended[batchv1.JobComplete] < 50 || ended[batchv1.JobFailed] < 20) {
		t.Errorf("of the jobs %v ended so: too few of one kind to see anything", ended)
	}
}
