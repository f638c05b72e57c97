package engine

import (
	"testing"
	"time"

	"lockstep/kinds"
)

func TestQueue(t *testing.T) {
	now := time.Unix(1000, 0)
	a, b := item{0, kinds.Key{Name: "a"}}, item{0, kinds.Key{Name: "b"}}
	q := newQueue()
	next := func() string {
		it, ok := q.peek()
		if !ok {
			return ""
		}
		q.take(it)
		return it.key.Name
	}
	expect := func(what, want string) {
		t.Helper()
		if got := next(); got != want {
			t.Errorf("%s: next is %q, want %q", what, got, want)
		}
	}

	q.add(a, now)
	q.add(b, now)
	q.add(a, now)
	expect("in order, each once", "a")
	expect("in order, each once", "b")
	expect("empty", "")

	q.add(a, now)
	expect("with a worker", "")
	q.done(a, outcome{}, now)
	expect("woken while with a worker", "a")

	q.add(a, now)
	q.done(a, outcome{revision: 7}, now)
	expect("the view is behind its write", "")
	q.reached(6)
	expect("the view is behind its write", "")
	q.reached(7)
	expect("the view has its write", "a")

	q.done(a, outcome{again: now.Add(time.Minute)}, now)
	if at, ok := q.promote(now); !ok || !at.Equal(now.Add(time.Minute)) {
		t.Errorf("promote = %v, %v", at, ok)
	}
	expect("not yet", "")
	q.promote(now.Add(time.Minute))
	expect("its time has come", "a")
	q.done(a, outcome{}, now)
	q.done(b, outcome{}, now)
	if len(q.states) != 0 {
		t.Errorf("%d states are left", len(q.states))
	}
}

// TestQueueVoidsTimers: of several times to look again, the last one said counts.
func TestQueueVoidsTimers(t *testing.T) {
	now := time.Unix(1000, 0)
	a := item{0, kinds.Key{Name: "a"}}
	q := newQueue()
	for _, after := range []time.Duration{time.Second, time.Hour} {
		q.add(a, now)
		q.take(a)
		q.done(a, outcome{again: now.Add(after)}, now)
	}
	q.promote(now.Add(time.Minute))
	if _, ok := q.peek(); ok {
		t.Error("woken by a timer that was replaced")
	}
	q.promote(now.Add(time.Hour))
	if _, ok := q.peek(); !ok {
		t.Error("not woken")
	}
}

func TestBackoffGrowsToItsBound(t *testing.T) {
	before := time.Duration(0)
	for n := range 100 {
		d := backoff(n)
		if d < before || d > lastBackoff || d <= 0 {
			t.Fatalf("backoff(%d) = %v after %v", n, d, before)
		}
		before = d
	}
	if before != lastBackoff {
		t.Errorf("backoff ends at %v", before)
	}
}
