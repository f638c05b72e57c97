package job

import (
	"cmp"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
)

// notCounted is why a pod is given up that failed while it was being deleted, and counts only for the pause.
const notCounted = "its failure is not counted"

// tally is how the pods of a job have ended so far. It is derived anew from the pods that are there and from what the status
// says of those that went: a set of uids, of which each counts once. Pods that have ended stay until the job has, unless
// somebody deletes them; whoever would remove one asks kinds.JobHolds first.
type tally struct {
	succeeded, failed int32
	// done and lost are the indexes that have succeeded, and those that have failed for good.
	done, lost intervals
	// waiting are, by index, the failed pods whose replacement is not there yet: it is to have their count of failures.
	waiting map[int]*corev1.Pod
	// ended are the pods that count for the pause before the next is made, whether or not their failure counts.
	ended []*corev1.Pod
	// failures are the pods that have failed and count, settled those of which that is written down.
	failures, settled map[types.UID]bool
}

func count(j *batchv1.Job, mine []*corev1.Pod) tally {
	t := tally{failures: map[types.UID]bool{}, settled: map[types.UID]bool{}}
	var record batchv1.UncountedTerminatedPods
	if j.Status.UncountedTerminatedPods != nil {
		record = *j.Status.UncountedTerminatedPods
	}
	successes := map[types.UID]bool{}
	for _, uid := range record.Succeeded {
		successes[uid], t.settled[uid] = true, true
	}
	for _, uid := range record.Failed {
		t.failures[uid], t.settled[uid] = true, true
	}
	t.done = parse(j.Status.CompletedIndexes, completions(j))
	if j.Status.FailedIndexes != nil {
		t.lost = parse(*j.Status.FailedIndexes, completions(j))
	}
	var done, lost []int
	for _, p := range mine {
		index, ok := indexOf(j, p)
		if ok && p.Annotations[kinds.LetGo] == notCounted {
			t.ended = append(t.ended, p)
		}
		if letGo(p) || !ok {
			continue
		}
		switch {
		case p.Status.Phase == corev1.PodSucceeded && !t.failures[p.UID]:
			successes[p.UID] = true
			done = append(done, index)
			t.ended = append(t.ended, p)
		case failed(j, p):
			t.ended = append(t.ended, p)
			rule := policy(j, p)
			if rule.counts {
				t.failures[p.UID] = true
			}
			if perIndex(j) && (rule.failsIndex || rule.counts && failuresOf(p) >= *j.Spec.BackoffLimitPerIndex) {
				lost = append(lost, index)
			}
		case p.Status.Phase == corev1.PodSucceeded: // too late, it has failed
			t.ended = append(t.ended, p)
		}
	}
	t.succeeded, t.failed = max(j.Status.Succeeded, int32(len(successes))), max(j.Status.Failed, int32(len(t.failures)))
	if indexed(j) {
		t.done = t.done.with(done)
		t.lost = t.lost.with(slices.DeleteFunc(lost, t.done.has))
		t.succeeded = int32(t.done.total())
		if perIndex(j) {
			t.waiting = awaited(j, mine, t)
		}
	}
	return t
}

// failed says that a pod has failed, or that it counts as failed since it is being deleted.
func failed(j *batchv1.Job, p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodFailed ||
		!onlyFailed(j) && p.DeletionTimestamp != nil && p.Status.Phase != corev1.PodSucceeded
}

// awaited are the failed pods of indexes that have no active one, each index's last.
func awaited(j *batchv1.Job, mine []*corev1.Pod, t tally) map[int]*corev1.Pod {
	active := map[int]bool{}
	for _, p := range mine {
		if index, ok := indexOf(j, p); ok && !letGo(p) && !podstatus.Finished(&p.Status) && p.DeletionTimestamp == nil {
			active[index] = true
		}
	}
	last := map[int]*corev1.Pod{}
	for _, p := range mine {
		index, ok := indexOf(j, p)
		if !ok || letGo(p) || !failed(j, p) || active[index] || t.done.has(index) || t.lost.has(index) {
			continue
		}
		if before := last[index]; before == nil || cmp.Or(cmp.Compare(countsOf(p), countsOf(before)),
			finishedAt(p).Compare(finishedAt(before))) >= 0 {
			last[index] = p
		}
	}
	return last
}

// settle writes down how the pods that are being deleted have ended, so that they may go. With a verdict nothing is counted
// any more, and nobody holds them.
func (t *turn) settle(finish *batchv1.JobCondition) {
	s := t.status
	if s.UncountedTerminatedPods == nil {
		s.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	}
	for _, p := range t.claims.Mine {
		if p.DeletionTimestamp == nil && !podstatus.Finished(&p.Status) {
			continue // it is active, and has been decided about
		}
		index, valid := indexOf(t.job, p)
		going := p.DeletionTimestamp != nil && finish == nil && !letGo(p) && !t.tally.settled[p.UID] &&
			t.tally.waiting[index] != p
		switch {
		case !going:
			t.keep("ended or ending", p)
		case valid && p.Status.Phase == corev1.PodSucceeded:
			s.UncountedTerminatedPods.Succeeded = append(s.UncountedTerminatedPods.Succeeded, p.UID)
			t.keep("being deleted, counted as succeeded", p)
		case valid && t.tally.failures[p.UID]:
			s.UncountedTerminatedPods.Failed = append(s.UncountedTerminatedPods.Failed, p.UID)
			t.keep("being deleted, counted as failed", p)
		case failed(t.job, p) || p.Status.Phase == corev1.PodSucceeded:
			t.giveUp(p, notCounted)
		default:
			t.keep("being deleted; how it ends is counted", p)
		}
	}
	s.Failed = max(s.Failed, t.tally.failed-t.late(finish))
	s.Succeeded = t.tally.succeeded
	if indexed(t.job) {
		s.CompletedIndexes = t.tally.done.String()
		if perIndex(t.job) {
			lost := t.tally.lost.String()
			s.FailedIndexes = &lost
		}
	}
}

// late is how many failures are not in the status yet: an index's pod that has failed counts when there is the next one, and until
// then it may still turn out well.
func (t *turn) late(finish *batchv1.JobCondition) (n int32) {
	if finish != nil {
		return 0
	}
	most := map[int]int32{}
	for _, p := range t.claims.Mine {
		if index, ok := indexOf(t.job, p); ok {
			most[index] = max(most[index], countsOf(p))
		}
	}
	for index, last := range t.tally.waiting {
		if t.tally.failures[last.UID] && !t.tally.settled[last.UID] && most[index] <= countsOf(last) {
			n++
		}
	}
	return n
}
