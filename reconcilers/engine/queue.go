package engine

import (
	"container/heap"
	"time"

	"lockstep/kinds"
)

// item is one key of one loop, by its index.
type item struct {
	loop int
	key  kinds.Key
}

// outcome is what a turn left to do.
type outcome struct {
	// revision is what the view must have reached before the key is decided again; zero: nothing was written.
	revision int64
	// again is when to decide again at the latest; zero: when something changes.
	again time.Time
	// retry asks for another turn after the key's backoff.
	retry bool
	// refused is the namespace of the first write that was refused; empty: none was.
	refused string
}

const (
	// firstBackoff is about the time in which a view follows a write, the usual cause of a conflict.
	firstBackoff = 5 * time.Millisecond
	// lastBackoff bounds the wait: a key that fails for an hour is tried some 120 times.
	lastBackoff = 30 * time.Second
)

// queue holds the keys that need a turn. A key is at most once in it and never with two workers. It has no lock and no
// clock: one goroutine owns it.
type queue struct {
	states map[item]*state
	ready  []item // in the order of their wake-ups; ready[:head] are taken
	head   int
	parked map[item]bool // wait for a revision
	timers timers
	at     int64 // revision that the view has reached
}

type state struct {
	wanted   bool // needs a turn
	queued   bool // is in ready
	running  bool
	since    time.Time // when it was first wanted
	revision int64     // not before the view has this one
	failures int
	again    time.Time // the one timer that counts; older ones in the heap are void
}

func newQueue() *queue {
	return &queue{states: map[item]*state{}, parked: map[item]bool{}}
}

// add says that the key needs a turn.
func (q *queue) add(it item, now time.Time) {
	s := q.states[it]
	if s == nil {
		s = &state{}
		q.states[it] = s
	}
	if !s.wanted {
		s.wanted, s.since = true, now
	}
	q.place(it, s)
}

// place puts a key that needs a turn where it belongs.
func (q *queue) place(it item, s *state) {
	switch {
	case !s.wanted || s.running || s.queued:
	case s.revision > q.at:
		q.parked[it] = true
	default:
		s.queued = true
		q.ready = append(q.ready, it)
	}
}

// reached says that the view has come to a revision.
func (q *queue) reached(revision int64) {
	if revision <= q.at {
		return
	}
	q.at = revision
	for it := range q.parked {
		if s := q.states[it]; s.revision <= revision {
			delete(q.parked, it)
			q.place(it, s)
		}
	}
}

// promote queues the keys whose time has come and returns when the next one's does.
func (q *queue) promote(now time.Time) (next time.Time, ok bool) {
	for len(q.timers) > 0 {
		t := q.timers[0]
		s := q.states[t.item]
		if s != nil && s.again.Equal(t.at) && t.at.After(now) {
			return t.at, true
		}
		heap.Pop(&q.timers)
		if s != nil && s.again.Equal(t.at) {
			s.again = time.Time{}
			q.add(t.item, now)
		}
	}
	return time.Time{}, false
}

// peek returns the key whose turn it is.
func (q *queue) peek() (item, bool) {
	if q.head == len(q.ready) {
		return item{}, false
	}
	return q.ready[q.head], true
}

// take removes the key that peek returned, hands it to a worker, and returns since when it was waiting.
func (q *queue) take(it item) time.Time {
	q.head++
	if q.head == len(q.ready) {
		q.ready, q.head = q.ready[:0], 0
	}
	s := q.states[it]
	s.wanted, s.queued, s.running = false, false, true
	return s.since
}

// done takes a key back from its worker.
func (q *queue) done(it item, o outcome, now time.Time) {
	s := q.states[it]
	s.running = false
	if o.revision > s.revision {
		s.revision = o.revision
	}
	again := o.again
	if o.retry {
		if at := now.Add(backoff(s.failures)); again.IsZero() || at.Before(again) {
			again = at
		}
		s.failures++
	} else {
		s.failures = 0
	}
	s.again = again
	if !again.IsZero() {
		heap.Push(&q.timers, timed{again, it})
	}
	q.place(it, s)
	if !s.wanted && again.IsZero() && s.revision <= q.at {
		delete(q.states, it)
	}
}

// depth counts the keys that need a turn and could have one.
func (q *queue) depth() int { return len(q.ready) - q.head }

func backoff(failures int) time.Duration {
	if failures > 12 { // 5 ms doubled 13 times passes 30 s
		return lastBackoff
	}
	return min(firstBackoff<<failures, lastBackoff)
}

// timers is a heap of the keys to look at again, the earliest first.
type timers []timed

type timed struct {
	at   time.Time
	item item
}

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].at.Before(t[j].at) }
func (t timers) Swap(i, j int)      { t[i], t[j] = t[j], t[i] }
func (t *timers) Push(x any)        { *t = append(*t, x.(timed)) }
func (t *timers) Pop() any {
	last := (*t)[len(*t)-1]
	*t = (*t)[:len(*t)-1]
	return last
}
