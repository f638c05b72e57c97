package probes

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Kind is what a probe is asked for.
type Kind string

const (
	Startup   Kind = "Startup"
	Readiness Kind = "Readiness"
	Liveness  Kind = "Liveness"
)

// eagerFirst is the wait before the first extra attempt of a probe that has not succeeded yet; it doubles. Most servers
// listen within a tenth of a second of their start, when the first attempt has just failed, and would otherwise not be
// known to be ready for a whole period.
const eagerFirst = 100 * time.Millisecond

// state is one probe of one container. All of it is plain data; time is an argument.
type state struct {
	kind Kind
	spec *corev1.Probe

	// passed is the answer so far: what the container's status goes by.
	passed bool
	// hold ends the probing of this container: it is to be killed, or has started.
	hold bool

	last   bool // the last counted result,
	run    int  // and how often in a row it came
	ticked time.Time
	tried  time.Time     // the last attempt, counted or not; zero before the first
	wait   time.Duration // before the next extra attempt; zero when there is none
}

// newState is the probe of a container that has just started, with the kubelet's initial answers: alive, not ready,
// not started.
func newState(kind Kind, spec *corev1.Probe) *state {
	s := &state{kind: kind, spec: spec, passed: kind == Liveness}
	// Extra attempts cannot hurt where a failure changes nothing. A command in the container costs too much for them.
	if kind != Liveness && spec.Exec == nil {
		s.wait = eagerFirst
	}
	return s
}

// attempt is when a probe is to be run next.
type attempt struct {
	at    time.Time
	extra bool // its failure does not count, and nobody hears of it
}

// next says when to run the probe of a container that started at the time given, and whether at all. A container that
// has not started as its startup probe has it gets no other probe; one that has gets no startup probe any more.
func (s *state) next(startedAt time.Time, started bool) (attempt, bool) {
	if s.hold || started == (s.kind == Startup) {
		return attempt{}, false
	}
	if s.tried.IsZero() {
		return attempt{at: startedAt.Add(seconds(s.spec.InitialDelaySeconds))}, true
	}
	regular := attempt{at: s.ticked.Add(s.period())}
	if s.passed || s.wait == 0 || s.wait >= s.period() {
		return regular, true
	}
	if extra := s.tried.Add(s.wait); extra.Before(regular.at) {
		return attempt{at: extra, extra: true}, true
	}
	return regular, true
}

// begin notes that an attempt begins.
func (s *state) begin(a attempt, now time.Time) {
	s.tried = now
	if !a.extra {
		s.ticked = now
	}
}

// observe takes an attempt's result and returns whether the answer, or the hold, changed. The kubelet's rules: an
// answer changes after so many equal results in a row.
func (s *state) observe(a attempt, success bool) bool {
	if a.extra && !success {
		s.wait *= 2
		return false
	}
	if s.run > 0 && s.last == success {
		s.run++
	} else {
		s.last, s.run = success, 1
	}
	if success && s.run < threshold(s.spec.SuccessThreshold, 1) ||
		!success && s.run < threshold(s.spec.FailureThreshold, 3) {
		return false
	}
	changed := s.passed != success
	s.passed = success
	if s.kind == Startup || s.kind == Liveness && !success {
		changed = changed || !s.hold
		s.hold, s.run = true, 0
	}
	return changed
}

// failed says that the container is to be killed for this probe.
func (s *state) failed() bool { return s.hold && !s.passed && s.kind != Readiness }

func (s *state) period() time.Duration {
	return max(seconds(s.spec.PeriodSeconds), time.Second)
}

// timeout is the probe's; 1 s when none is stated.
func (s *state) timeout() time.Duration {
	return max(seconds(s.spec.TimeoutSeconds), time.Second)
}

func seconds(n int32) time.Duration { return time.Duration(n) * time.Second }

// threshold is what Kubernetes' defaulting gives when nothing is stated.
func threshold(stated int32, otherwise int) int {
	if stated > 0 {
		return int(stated)
	}
	return otherwise
}
