package reconcilers

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/kinds/strategy"
)

// jobWorld is a job with its pods, and an API server as far as a controller of jobs has to do with one.
type jobWorld struct {
	oracleAPI
	job   *batchv1.Job
	pods  map[string]*corev1.Pod
	count int
	// gone says that a pod is that counted, givenUp that one of an index was that had failed before.
	gone, givenUp bool
	// made are the pods that were made since the last comparison, as they were wanted.
	made []string
	// holds says that a pod may not go yet.
	holds func(*corev1.Pod) bool
}

func newJobWorld(j *batchv1.Job) *jobWorld {
	plain := func(text string) string { return podOfJob.ReplaceAllString(text, "POD") }
	return &jobWorld{oracleAPI: newOracleAPI(plain), job: j.DeepCopy(), pods: map[string]*corev1.Pod{}}
}

var podOfJob = regexp.MustCompile(`sum-(\d+-)?new\d+`)

func (w *jobWorld) create(o *corev1.Pod) *corev1.Pod {
	p := stored(o)
	strategy.Default(p)
	body := p.DeepCopy()
	body.Namespace = ""
	body.Finalizers = slices.DeleteFunc(body.Finalizers, func(f string) bool { return f == batchv1.JobTrackingFinalizer })
	w.made = append(w.made, toJSON(body))
	w.count++
	p.Namespace, p.Name = "shop", fmt.Sprintf("%snew%d", p.GenerateName, w.count)
	p.UID, p.Status.Phase, p.ResourceVersion = types.UID(fmt.Sprint("pod-", w.count)), corev1.PodPending, w.next()
	// Of pods of one moment Kubernetes gives up any; so no two indexes' are of one.
	index := 0
	if number, ok := p.Annotations[batchv1.JobCompletionIndexAnnotation]; ok {
		fmt.Sscan(number, &index)
	}
	p.CreationTimestamp = metav1.NewTime(time.Now().Truncate(time.Second).Add(time.Duration(index)))
	w.pods[p.Name] = p
	w.show(watch.Added, p)
	return p.DeepCopy()
}

// put stores another state of a pod, or lets it go.
func (w *jobWorld) put(p *corev1.Pod) {
	p.ResourceVersion = w.next()
	w.pods[p.Name] = p
	failures, ok := p.Annotations[batchv1.JobIndexFailureCountAnnotation]
	ignored := p.Annotations[batchv1.JobIndexIgnoredFailureCountAnnotation]
	if p.Annotations[kinds.LetGo] != "" && ok && (failures != "0" || ignored != "") {
		w.givenUp = true
	}
	w.show(watch.Modified, p)
	w.reap(p)
}

func (w *jobWorld) reap(p *corev1.Pod) {
	if p.DeletionTimestamp == nil || *p.DeletionGracePeriodSeconds > 0 || w.holds(p) {
		return
	}
	if why := p.Annotations[kinds.LetGo]; why == "" || strings.Contains(why, "not counted") {
		w.gone = true
	}
	delete(w.pods, p.Name)
	w.next()
	w.show(watch.Deleted, p)
}

func (w *jobWorld) store(j *batchv1.Job) {
	changed := w.job.DeepCopy()
	changed.Status = stored(j).Status
	changed.ResourceVersion = w.next()
	w.job = changed
	w.show(watch.Modified, changed)
	for _, p := range w.sorted() {
		w.reap(p)
	}
}

func (w *jobWorld) delete(name string) {
	p := w.pods[name]
	if p == nil || p.DeletionTimestamp != nil {
		return
	}
	p = p.DeepCopy()
	grace := int64(0)
	if p.Spec.NodeName != "" && !podstatus.Finished(&p.Status) {
		grace = 30
	}
	p.DeletionGracePeriodSeconds = &grace
	p.DeletionTimestamp = &metav1.Time{Time: time.Now().Truncate(time.Second).Add(time.Duration(grace) * time.Second)}
	w.put(p)
}

// describe is all of a pod that is to be the same, except what it was made of.
func describe(p *corev1.Pod) string {
	index := p.Annotations[batchv1.JobCompletionIndexAnnotation]
	s := fmt.Sprintf("pod %2s %s of %s", index, p.Status.Phase, p.CreationTimestamp.Format("15:04:05"))
	if n, ok := p.Annotations[batchv1.JobIndexFailureCountAnnotation]; ok {
		s += fmt.Sprintf(" after %s and %s failures", n, p.Annotations[batchv1.JobIndexIgnoredFailureCountAnnotation])
	}
	if p.Spec.NodeName != "" {
		s += " bound"
	}
	for _, c := range p.Status.Conditions {
		s += fmt.Sprintf(" %s=%s since %s", c.Type, c.Status, c.LastTransitionTime.Format("15:04:05"))
	}
	for _, c := range p.Status.ContainerStatuses {
		s += fmt.Sprintf(" restarted %d", c.RestartCount)
		if at := c.State.Terminated; at != nil {
			s += fmt.Sprintf(" exit %d at %s", at.ExitCode, at.FinishedAt.Format("15:04:05"))
		}
	}
	if p.DeletionTimestamp != nil {
		s += fmt.Sprintf(" deleted %s-%d", p.DeletionTimestamp.Format("15:04:05"), *p.DeletionGracePeriodSeconds)
	}
	return s
}

// sorted are the pods, those that are alike beside each other: so the nth is the same in both worlds.
func (w *jobWorld) sorted() []*corev1.Pod {
	list := make([]*corev1.Pod, 0, len(w.pods))
	for _, p := range w.pods {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b *corev1.Pod) int { return strings.Compare(describe(a), describe(b)) })
	return list
}

func (w *jobWorld) lines() []string {
	out := slices.Sorted(slices.Values(w.made))
	for _, p := range w.sorted() {
		out = append(out, describe(p))
	}
	s := stored(&w.job.Status)
	for _, c := range s.Conditions {
		out = append(out, fmt.Sprintf("%s=%s since %s: %s: %s", c.Type, c.Status, c.LastTransitionTime.Format("15:04:05"), c.Reason,
			podOfJob.ReplaceAllString(c.Message, "POD")))
	}
	s.UncountedTerminatedPods, s.Conditions = nil, nil
	return append(out, toJSON(s))
}

func randomJob(r *rand.Rand) *batchv1.Job {
	app := map[string]string{"app": "sum"}
	j := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "sum", UID: "the-job", Generation: 1, ResourceVersion: "1", CreationTimestamp: metav1.Now(),
		},
		Spec: batchv1.JobSpec{
			Parallelism: new(1 + r.Int32N(4)), Suspend: new(r.IntN(8) == 0), BackoffLimit: new(r.Int32N(8)),
			Selector:       &metav1.LabelSelector{MatchLabels: app},
			ManualSelector: new(true),
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: app, Annotations: map[string]string{"a": "b"}},
				Spec: corev1.PodSpec{
					RestartPolicy:  corev1.RestartPolicyNever,
					Containers:     []corev1.Container{{Name: "main", Image: "one"}},
					InitContainers: []corev1.Container{{Name: "first", Image: "one"}},
				},
			},
		},
	}
	s := &j.Spec
	if r.IntN(3) > 0 {
		s.Completions = new(1 + r.Int32N(8))
	}
	if r.IntN(2) == 0 {
		s.CompletionMode = new(batchv1.IndexedCompletion)
		s.Completions = new(1 + r.Int32N(8))
		if r.IntN(2) == 0 {
			s.BackoffLimit, s.BackoffLimitPerIndex = nil, new(r.Int32N(3))
			if r.IntN(2) == 0 {
				s.MaxFailedIndexes = new(r.Int32N(*s.Completions))
			}
		}
		if r.IntN(3) == 0 {
			rule := batchv1.SuccessPolicyRule{SucceededCount: new(1 + r.Int32N(*s.Completions))}
			if r.IntN(2) == 0 {
				rule = batchv1.SuccessPolicyRule{SucceededIndexes: new(fmt.Sprintf("0-%d", r.Int32N(*s.Completions)))}
			}
			s.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{rule}}
		}
	}
	if r.IntN(4) == 0 {
		s.ActiveDeadlineSeconds = new(10 + r.Int64N(200))
	}
	switch r.IntN(4) {
	case 0:
		s.PodReplacementPolicy = new(batchv1.Failed)
	case 1:
		s.PodReplacementPolicy = new(batchv1.Failed)
		s.PodFailurePolicy = randomFailurePolicy(r, s.BackoffLimitPerIndex != nil)
	case 2:
		if s.BackoffLimitPerIndex == nil {
			s.Template.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
		}
	}
	if r.IntN(2) == 0 {
		s.Template.Finalizers = []string{"example.org/slow"} // what is deleted stays, as long as the job does
	}
	strategy.Default(j)
	return j
}

func randomFailurePolicy(r *rand.Rand, perIndex bool) *batchv1.PodFailurePolicy {
	actions := []batchv1.PodFailurePolicyAction{
		batchv1.PodFailurePolicyActionIgnore, batchv1.PodFailurePolicyActionCount, batchv1.PodFailurePolicyActionFailJob,
	}
	if perIndex {
		actions = append(actions, batchv1.PodFailurePolicyActionFailIndex)
	}
	out := &batchv1.PodFailurePolicy{}
	for code := range int32(1 + r.IntN(3)) {
		rule := batchv1.PodFailurePolicyRule{Action: actions[r.IntN(len(actions))]}
		if r.IntN(3) == 0 {
			rule.OnPodConditions = []batchv1.PodFailurePolicyOnPodConditionsPattern{
				{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue},
			}
		} else {
			rule.OnExitCodes = &batchv1.PodFailurePolicyOnExitCodesRequirement{
				Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{code + 1},
			}
		}
		out.Rules = append(out.Rules, rule)
	}
	return out
}

// happen lets the same happen in both worlds, one thing after the other: of what comes at once Kubernetes sees any part first.
func (h *jobHistory) happen(t *testing.T) {
	both := func(act func(*jobWorld)) {
		for _, w := range []*jobWorld{h.ours, h.theirs} {
			w.mu.Lock()
			act(w)
			w.mu.Unlock()
		}
		h.compare(t, time.Now())
	}
	r := h.rand
	change := func(to func(*batchv1.JobSpec)) {
		both(func(w *jobWorld) {
			j := w.job.DeepCopy()
			to(&j.Spec)
			j.Generation++
			j.ResourceVersion = w.next()
			w.job = j
			w.show(watch.Modified, j)
		})
	}
	switch n := r.IntN(40); {
	case kinds.JobCondition(h.ours.job, batchv1.JobFailureTarget) != nil:
	case kinds.JobCondition(h.ours.job, batchv1.JobSuccessCriteriaMet) != nil:
	case n == 0:
		suspend := !*h.ours.job.Spec.Suspend
		change(func(s *batchv1.JobSpec) { s.Suspend = &suspend })
	case n < 4:
		parallelism := r.Int32N(6)
		change(func(s *batchv1.JobSpec) { s.Parallelism = &parallelism })
	case n < 6 && h.ours.job.Spec.Suspend != nil && *h.ours.job.Spec.Suspend:
		change(func(s *batchv1.JobSpec) { s.Suspend = new(false) })
	}
	h.ended = false
	for i := len(h.ours.pods) - 1; i >= 0; i-- {
		if i >= len(h.ours.pods) {
			continue
		}
		if act := h.fate(h.ours.sorted()[i]); act != nil {
			both(func(w *jobWorld) { act(w, w.sorted()[i]) })
		}
	}
}

// fate is what happens to a pod next; nil: nothing.
func (h *jobHistory) fate(p *corev1.Pod) func(*jobWorld, *corev1.Pod) {
	r := h.rand
	now := metav1.NewTime(time.Now().Truncate(time.Second))
	// Of pods that end in the same second Kubernetes knows by chance which came first.
	change := func(to func(*corev1.Pod)) func(*jobWorld, *corev1.Pod) {
		return func(w *jobWorld, p *corev1.Pod) {
			p = p.DeepCopy()
			to(p)
			w.put(p)
		}
	}
	condition := func(p *corev1.Pod, kind corev1.PodConditionType, status corev1.ConditionStatus) {
		if c := podstatus.Condition(&p.Status, kind); c != nil && c.Status == status {
			return
		}
		p.Status.Conditions = slices.DeleteFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == kind })
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: kind, Status: status, LastTransitionTime: now})
	}
	end := func(code int32) func(p *corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodSucceeded
			if code > 0 {
				p.Status.Phase = corev1.PodFailed
			}
			condition(p, corev1.PodReady, corev1.ConditionFalse)
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", State: corev1.ContainerState{
				Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: now},
			}}}
			if p.DeletionTimestamp != nil {
				grace := time.Duration(*p.DeletionGracePeriodSeconds) * time.Second
				p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{Time: p.DeletionTimestamp.Add(-grace)}, new(int64(0))
			}
		}
	}
	codes := []int32{0, 0, 1, 2, 3}
	remove := func(w *jobWorld, p *corev1.Pod) { w.delete(p.Name) }
	switch n := r.IntN(40); {
	case h.ended && (n < 3 || p.DeletionTimestamp != nil || podstatus.Finished(&p.Status)):
	case podstatus.Finished(&p.Status):
		if n == 0 && p.DeletionTimestamp == nil {
			h.ended = true
			return remove
		}
	case n == 0 && p.DeletionTimestamp == nil:
		h.ended = true
		return remove
	case n == 1 && p.DeletionTimestamp == nil:
		h.ended = true
		return func(w *jobWorld, p *corev1.Pod) {
			change(func(p *corev1.Pod) { condition(p, corev1.DisruptionTarget, corev1.ConditionTrue) })(w, p)
			w.delete(p.Name)
		}
	case p.DeletionTimestamp != nil:
		if n < 20 {
			h.ended = true
			return change(end(codes[r.IntN(5)]))
		}
	case p.Spec.NodeName == "" && n < 30:
		return change(func(p *corev1.Pod) { p.Spec.NodeName = "n1" })
	case p.Status.Phase == corev1.PodPending && n < 25:
		return change(func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning })
	case n == 2 && p.Spec.NodeName != "": // a node is out of memory
		h.ended = true
		return change(func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodFailed
			condition(p, corev1.PodReady, corev1.ConditionFalse)
			condition(p, corev1.DisruptionTarget, corev1.ConditionTrue)
		})
	case p.Status.Phase != corev1.PodRunning:
	case n == 3 && h.ours.job.Spec.Template.Spec.RestartPolicy == corev1.RestartPolicyOnFailure:
		return change(func(p *corev1.Pod) {
			restarts := int32(1)
			if len(p.Status.ContainerStatuses) > 0 {
				restarts += p.Status.ContainerStatuses[0].RestartCount
			}
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", RestartCount: restarts}}
		})
	case n < 18 && !podstatus.Ready(&p.Status):
		return change(func(p *corev1.Pod) { condition(p, corev1.PodReady, corev1.ConditionTrue) })
	case n < 12 && !h.ended:
		h.ended = true
		return change(end(codes[r.IntN(5)]))
	}
	return nil
}
