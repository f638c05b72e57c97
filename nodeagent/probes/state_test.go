package probes

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func spec(delay, period, success, failure int32) *corev1.Probe {
	return &corev1.Probe{
		InitialDelaySeconds: delay, PeriodSeconds: period, SuccessThreshold: success, FailureThreshold: failure, TimeoutSeconds: 1,
		ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(80)}},
	}
}

func commandSpec(delay, period, success, failure int32) *corev1.Probe {
	p := spec(delay, period, success, failure)
	p.ProbeHandler = corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}
	return p
}

// TestState plays results: `+` and `-` are counted attempts, `e` an extra one that fails. After each, the answer is
// noted: `Y` or `n`, with `!` when it changed and `.` when the probing has ended.
func TestState(t *testing.T) {
	for _, test := range []struct {
		name  string
		kind  Kind
		spec  *corev1.Probe
		plays string
		want  string
	}{
		{"ready at once", Readiness, spec(0, 10, 1, 3), "+", "Y!"},
		{"ready after two", Readiness, spec(0, 10, 2, 3), "+-++", "n n n Y!"},
		{"unready after three", Readiness, spec(0, 10, 1, 3), "+--+---", "Y! Y Y Y Y Y n!"},
		{"extra failures do not count", Readiness, spec(0, 10, 1, 1), "eee+", "n n n Y!"},
		{"never ready is no news", Readiness, spec(0, 10, 1, 1), "--", "n n"},
		{"alive", Liveness, spec(0, 10, 1, 3), "+--+--", "Y Y Y Y Y Y"},
		{"dead", Liveness, spec(0, 10, 1, 3), "---", "Y Y n!."},
		{"dead at once", Liveness, spec(0, 10, 1, 1), "-", "n!."},
		{"started", Startup, spec(0, 10, 1, 3), "--+", "n n Y!."},
		{"never started", Startup, spec(0, 10, 1, 2), "--", "n n!."},
		{"defaults", Readiness, &corev1.Probe{}, "+---", "Y! Y Y n!"},
	} {
		s := newState(test.kind, test.spec)
		var got []string
		for _, play := range test.plays {
			changed := s.observe(attempt{extra: play == 'e'}, play == '+')
			text := "n"
			if s.passed {
				text = "Y"
			}
			if changed {
				text += "!"
			}
			if s.hold {
				text += "."
			}
			got = append(got, text)
		}
		if text := strings.Join(got, " "); text != test.want {
			t.Errorf("%s: got %s, want %s", test.name, text, test.want)
		}
	}
}

// TestTimes lists when a probe that always fails is tried, in milliseconds after the start; extra attempts have an x.
func TestTimes(t *testing.T) {
	start := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		kind Kind
		spec *corev1.Probe
		want string
	}{
		"readiness":      {Readiness, spec(0, 10, 1, 3), "0 100x 300x 700x 1500x 3100x 6300x 10000 16400x 20000"},
		"short period":   {Readiness, spec(0, 1, 1, 3), "0 100x 300x 700x 1000 1800x 2000 3000 4000 5000"},
		"delayed":        {Readiness, spec(5, 10, 1, 3), "5000 5100x 5300x 5700x 6500x 8100x 11300x 15000 21400x 25000"},
		"startup":        {Startup, spec(1, 1, 1, 30), "1000 1100x 1300x 1700x 2000 2800x 3000 4000 5000 6000"},
		"liveness":       {Liveness, spec(0, 10, 1, 30), "0 10000 20000 30000 40000 50000 60000 70000 80000 90000"},
		"a command":      {Readiness, commandSpec(0, 10, 1, 3), "0 10000 20000 30000 40000 50000 60000 70000 80000 90000"},
		"period missing": {Liveness, &corev1.Probe{FailureThreshold: 99}, "0 1000 2000 3000 4000 5000 6000 7000 8000 9000"},
	} {
		s := newState(test.kind, test.spec)
		var got []string
		for range 10 {
			a, ok := s.next(start, test.kind != Startup)
			if !ok {
				got = append(got, "ended")
				break
			}
			text := fmt.Sprint(a.at.Sub(start).Milliseconds())
			if a.extra {
				text += "x"
			}
			got = append(got, text)
			s.begin(a, a.at)
			s.observe(a, false)
		}
		if text := strings.Join(got, " "); text != test.want {
			t.Errorf("%s:\ngot  %s\nwant %s", name, text, test.want)
		}
	}
}

func TestGating(t *testing.T) {
	now := time.Now()
	for _, kind := range []Kind{Startup, Readiness, Liveness} {
		for _, started := range []bool{false, true} {
			_, ok := newState(kind, spec(0, 1, 1, 1)).next(now, started)
			if want := started != (kind == Startup); ok != want {
				t.Errorf("%s of a container that has started=%v: %v", kind, started, ok)
			}
		}
	}
}
