package scheduler

import (
	"maps"
	"math"
	"time"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
)

// How long a pod that was refused gives way to others, as kube-scheduler's podInitialBackoffSeconds and podMaxBackoffSeconds.
const (
	firstBackoff = time.Second
	mostBackoff  = 10 * time.Second
)

// queue says which pods are to be decided.
type queue struct {
	fresh   map[kinds.Key]struct{} // came, or ask for something else
	changes Changes                // decide the pods whose verdict these may change
	all     bool                   // decide every pod that waits
	told    map[kinds.Key]verdict  // the last refusal of the pods that wait
	retries map[kinds.Key]time.Time
	failed  map[kinds.Key]string // why the claims of reserved pods were not bound, which is to be told
	giving  bool                 // pods that could be decided gave way to others
}

// verdict is what was last said about a pod.
type verdict struct {
	text     string
	told     time.Time // when it was first said, or said again
	decided  time.Time
	wakes    Changes
	woken    bool // by one of these; it gave way to others
	attempts int
	since    time.Time // when it was reserved; zero: it is not
}

// backoff is how long after its last decision others go first.
func (v verdict) backoff() time.Duration {
	if v.attempts > 4 {
		return mostBackoff
	}
	return min(mostBackoff, firstBackoff<<max(0, v.attempts-1))
}

func newQueue() queue {
	return queue{
		fresh: map[kinds.Key]struct{}{}, told: map[kinds.Key]verdict{}, retries: map[kinds.Key]time.Time{}, failed: map[kinds.Key]string{},
	}
}

// ready says that there are pods to decide.
func (q *queue) ready(now time.Time) bool {
	next, ok := q.next()
	return q.all || q.giving || q.changes != 0 || len(q.fresh) > 0 || len(q.failed) > 0 || ok && !next.After(now)
}

// next is when the first pod is to be tried again of which a write met another; false: there is none.
func (q *queue) next() (first time.Time, ok bool) {
	for _, at := range q.retries {
		if !ok || at.Before(first) {
			first, ok = at, true
		}
	}
	return first, ok
}

// retry has a pod decided again soon.
func (q *queue) retry(k kinds.Key, now time.Time) {
	q.retries[k] = now.Add(max(firstBackoff, q.told[k].backoff()))
}

// reserved remembers that a pod waits for its claims, which wake it, on a node, for so long at most.
func (q *queue) reserved(r Reservation, now time.Time) {
	key := kinds.KeyOf(r.Pod)
	last := q.told[key]
	last.decided, last.wakes, last.woken = now, NodeListed, false
	if last.since.IsZero() || len(r.Volumes)+len(r.Claims) > 0 {
		last.attempts++
		last.since = now
	}
	q.told[key], q.retries[key] = last, last.since.Add(bindTimeout)
}

// expired says that a pod has waited for its claims for too long.
func (q *queue) expired(k kinds.Key, now time.Time) bool {
	since := q.told[k].since
	return !since.IsZero() && !now.Before(since.Add(bindTimeout))
}

// fail has a pod whose claims were not bound back off: nothing but time, or another change of its claims, has it decided again.
func (q *queue) fail(k kinds.Key, now time.Time) {
	last := q.told[k]
	last.decided, last.wakes, last.woken, last.since = now, 0, false, time.Time{}
	q.told[k] = last
	delete(q.fresh, k)
	q.retry(k, now)
}

// failures returns the pods that are to be told why their claims were not bound, and forgets them.
func (q *queue) failures(s *State) (out []Failure) {
	for _, p := range s.Pending(func(k kinds.Key) bool { return q.failed[k] != "" }) {
		out = append(out, Failure{Pod: p, Reason: q.failed[kinds.KeyOf(p)]})
	}
	clear(q.failed)
	return out
}

// wake has a pod decided again, after others if it was decided just now.
func (q *queue) wake(k kinds.Key) {
	last, told := q.told[k]
	if !told {
		q.fresh[k] = struct{}{}
		return
	}
	last.woken, q.giving = true, true
	q.told[k] = last
}

// due returns the pods to decide now, in order, and forgets why. A pod that waits and was refused before is decided again
// after the changes that its refusal named. While it backs off, pods of its priority and above go first; where there are none,
// it is decided all the same.
func (q *queue) due(s *State, now time.Time) []*corev1.Pod {
	maps.DeleteFunc(q.told, func(k kinds.Key, _ verdict) bool { return s.pending[k] == nil })
	maps.DeleteFunc(q.retries, func(k kinds.Key, _ time.Time) bool { return s.pending[k] == nil })
	backing := map[kinds.Key]struct{}{}
	lowest := int32(math.MaxInt32)
	first := map[kinds.Key]struct{}{}
	for k, p := range s.pending {
		if q.failed[k] != "" {
			continue
		}
		last, told := q.told[k]
		_, fresh := q.fresh[k]
		again, retries := q.retries[k]
		woken := last.woken || last.wakes&q.changes != 0
		switch {
		case q.all, fresh, !told && q.changes != 0, retries && !again.After(now), woken && now.Sub(last.decided) >= last.backoff():
			first[k] = struct{}{}
			lowest = min(lowest, priority(p))
		case woken:
			backing[k] = struct{}{}
		}
	}
	q.giving = false
	pods := s.Pending(func(k kinds.Key) bool {
		if _, ok := first[k]; ok {
			return true
		}
		_, ok := backing[k]
		gives := ok && len(first) > 0 && priority(s.pending[k]) <= lowest
		if gives {
			q.giving = true
			last := q.told[k]
			last.woken = true
			q.told[k] = last
		}
		return ok && !gives
	})
	for _, p := range pods { // until it is refused again, or bound
		k := kinds.KeyOf(p)
		delete(q.retries, k)
		if last, told := q.told[k]; told {
			last.wakes = anything
			q.told[k] = last
		}
	}
	q.all, q.changes = false, 0
	clear(q.fresh)
	return pods
}

// refused remembers a refusal and says whether it is to be told: it is another one than the last, or that was long ago.
func (q *queue) refused(r Refusal, now time.Time) bool {
	key := kinds.KeyOf(r.Pod)
	last := q.told[key]
	next := verdict{text: r.Reason, told: now, decided: now, wakes: r.Wakes, attempts: last.attempts + 1}
	old := last.text == r.Reason && now.Sub(last.told) < lookAgain
	if old {
		next.told = last.told
	}
	q.told[key] = next
	return !old
}
