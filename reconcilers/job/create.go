package job

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds/podstatus"
	"lockstep/reconcilers/loop"
	"lockstep/reconcilers/pods"
)

const (
	// nameLength is how long the part of a name before its random end may be: Kubernetes' MaxGeneratedNameLength.
	nameLength = 58
	indexEnv   = "JOB_COMPLETION_INDEX"
)

// create wants the pods that are missing, once the pause after a failure is over.
func (t *turn) create() {
	missing := t.wanted() - len(t.active)
	if onlyFailed(t.job) {
		missing -= len(t.claims.Terminating)
	}
	missing = min(missing, burst)
	if missing <= 0 {
		return
	}
	reason := fmt.Sprintf("too few pods: %d, need %d", len(t.active), t.wanted())
	if !indexed(t.job) {
		if at := t.pause(); at.After(t.now) {
			t.again(at)
			return
		}
		t.want(missing, pods.Of(t.job, &t.job.Spec.Template), reason)
		return
	}
	if !perIndex(t.job) {
		if at := t.pause(); at.After(t.now) {
			t.again(at)
			return
		}
	}
	for _, index := range t.pending(missing) {
		if last := t.tally.waiting[index]; last != nil {
			if at := finishedAt(last).Add(backoff(countsOf(last) + 1)); at.After(t.now) {
				t.again(at)
				continue
			}
		}
		t.want(1, t.ofIndex(index), reason)
	}
}

func (t *turn) want(n int, p *corev1.Pod, reason string) {
	t.created += n
	t.decision.Wants = append(t.decision.Wants, slices.Repeat([]loop.Want{pods.Creation(p, reason)}, n)...)
}

// ofIndex returns a new pod of an index.
func (t *turn) ofIndex(index int) *corev1.Pod {
	template := t.job.Spec.Template.DeepCopy()
	p := pods.Of(t.job, template)
	number := strconv.Itoa(index)
	p.GenerateName = t.job.Name + "-" + number + "-"
	if over := len(p.GenerateName) - nameLength; over > 0 {
		p.GenerateName = t.job.Name[:len(t.job.Name)-over] + "-" + number + "-"
	}
	p.Spec.Hostname = t.job.Name + "-" + number
	p.Labels = maps.Clone(p.Labels)
	if p.Labels == nil {
		p.Labels = map[string]string{}
	}
	p.Labels[batchv1.JobCompletionIndexAnnotation] = number
	if p.Annotations == nil {
		p.Annotations = map[string]string{}
	}
	p.Annotations[batchv1.JobCompletionIndexAnnotation] = number
	if perIndex(t.job) {
		failures, ignored := t.failuresBefore(index)
		p.Annotations[batchv1.JobIndexFailureCountAnnotation] = strconv.Itoa(int(failures))
		if ignored > 0 {
			p.Annotations[batchv1.JobIndexIgnoredFailureCountAnnotation] = strconv.Itoa(int(ignored))
		}
	}
	for i := range p.Spec.InitContainers {
		nameIndex(&p.Spec.InitContainers[i])
	}
	for i := range p.Spec.Containers {
		nameIndex(&p.Spec.Containers[i])
	}
	return p
}

func (t *turn) failuresBefore(index int) (failures, ignored int32) {
	last := t.tally.waiting[index]
	if last == nil {
		return 0, 0
	}
	failures, ignored = failuresOf(last), ignoredOf(last)
	if policy(t.job, last).counts {
		return failures + 1, ignored
	}
	return failures, ignored + 1
}

// nameIndex gives a container its index in the environment, unless it states one itself.
func nameIndex(c *corev1.Container) {
	if slices.ContainsFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == indexEnv }) {
		return
	}
	c.Env = append(c.Env, corev1.EnvVar{Name: indexEnv, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{
		APIVersion: "v1", FieldPath: "metadata.labels['" + batchv1.JobCompletionIndexAnnotation + "']",
	}}})
}

// order returns the pods in the order in which Kubernetes gives them up: those that have come least far first, and of those that
// have come as far the youngest.
func order(list []*corev1.Pod) []*corev1.Pod {
	return slices.SortedStableFunc(slices.Values(list), func(a, b *corev1.Pod) int {
		return cmp.Or(
			pods.Progress(a, b),
			youngerFirst(podstatus.ReadySince(&a.Status), podstatus.ReadySince(&b.Status)),
			pods.Restarts(a, b),
			youngerFirst(a.CreationTimestamp.Time, b.CreationTimestamp.Time),
		)
	})
}

// youngerFirst compares times. An unknown one counts as the youngest.
func youngerFirst(a, b time.Time) int {
	if a.IsZero() || b.IsZero() {
		return a.Compare(b)
	}
	return b.Compare(a)
}

const (
	// firstPause and longestPause are Kubernetes' DefaultJobPodFailureBackOff and MaxJobPodFailureBackOff.
	firstPause   = 10 * time.Second
	longestPause = 10 * time.Minute
)

// backoff is how long the pause is after so many failures in a row.
func backoff(failures int32) time.Duration {
	d := firstPause
	for range max(0, failures-1) {
		if d *= 2; d >= longestPause {
			return longestPause
		}
	}
	return d
}

// pause returns until when no pod is made: it depends on the failures since the last success. Zero: none is waited for.
func (t *turn) pause() time.Time {
	well := func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded && !t.tally.failures[p.UID] }
	var success, last time.Time
	for _, p := range t.tally.ended {
		if well(p) && finishedAt(p).After(success) {
			success = finishedAt(p)
		}
	}
	failures := int32(0)
	for _, p := range t.tally.ended {
		if at := failedAt(t.job, p); !well(p) && at.After(success) {
			failures++
			if at.After(last) {
				last = at
			}
		}
	}
	if failures == 0 {
		return time.Time{}
	}
	return last.Add(backoff(failures))
}

// finishedAt is when a pod ended: by its containers, else since when it is not ready, else since when it is being deleted.
func finishedAt(p *corev1.Pod) time.Time { return finishedBy(p, time.Time{}) }

// failedAt is when a pod began to count as failed. One that is replaced when it is being deleted did so then, whatever its
// containers did afterwards.
func failedAt(j *batchv1.Job, p *corev1.Pod) time.Time {
	if p.DeletionTimestamp == nil || onlyFailed(j) {
		return finishedAt(p)
	}
	return finishedBy(p, deletedAt(p))
}

// finishedBy is when a pod ended as it looked at a moment; zero: as it looks now.
func finishedBy(p *corev1.Pod, moment time.Time) time.Time {
	seen := func(at time.Time) bool { return !at.IsZero() && (moment.IsZero() || !at.After(moment)) }
	if at, ok := stoppedAt(p); ok && seen(at) {
		return at
	}
	c := podstatus.Condition(&p.Status, corev1.PodReady)
	if c != nil && c.Status == corev1.ConditionFalse && seen(c.LastTransitionTime.Time) {
		return c.LastTransitionTime.Time
	}
	if p.DeletionTimestamp != nil {
		return deletedAt(p)
	}
	return p.CreationTimestamp.Time
}

// deletedAt is when somebody asked for a pod's end.
func deletedAt(p *corev1.Pod) time.Time {
	grace := int64(0)
	if p.DeletionGracePeriodSeconds != nil {
		grace = *p.DeletionGracePeriodSeconds
	}
	return p.DeletionTimestamp.Add(-time.Duration(grace) * time.Second)
}

// stoppedAt is when the last container of a pod stopped; not ok: one has not, or there is none.
func stoppedAt(p *corev1.Pod) (last time.Time, ok bool) {
	sidecars := map[string]bool{}
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		sidecars[c.Name] = podstatus.Sidecar(c)
	}
	for i, s := range slices.Concat(p.Status.ContainerStatuses, p.Status.InitContainerStatuses) {
		if i >= len(p.Status.ContainerStatuses) && !sidecars[s.Name] {
			continue
		}
		if s.State.Terminated == nil || s.State.Terminated.FinishedAt.IsZero() {
			return time.Time{}, false
		}
		if at := s.State.Terminated.FinishedAt.Time; at.After(last) {
			last = at
		}
	}
	return last, !last.IsZero()
}
