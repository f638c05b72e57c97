package pods

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds/drift"
)

func TestStruck(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	always, never := corev1.ContainerRestartPolicyAlways, corev1.RestartPolicyNever
	for name, c := range map[string]struct {
		exit     Exit
		change   func(*corev1.Pod)
		killed   bool
		open     bool
		evidence string
	}{
		"killed":                {exit: Exit{Code: 137}, killed: true, open: true, evidence: "a PID namespace of its own"},
		"ended by itself":       {exit: Exit{Code: 1}},
		"ended well":            {exit: Exit{}},
		"asked to end":          {exit: Exit{Code: 143}},
		"out of memory":         {exit: Exit{Code: 137, OOM: true}},
		"the agent's":           {exit: Exit{Code: 137, Ours: true}},
		"deleted":               {exit: Exit{Code: 137}, change: func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: at} }},
		"of another definition": {exit: Exit{Code: 137}, change: func(p *corev1.Pod) { p.Spec.Containers[0].Name = "other" }},
		"never restarted":       {exit: Exit{Code: 137}, change: func(p *corev1.Pod) { p.Spec.RestartPolicy = never }, killed: true},
		"on failure": {exit: Exit{Code: 137}, change: func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyOnFailure },
			killed: true, open: true},
		"container's own policy": {exit: Exit{Code: 137}, change: func(p *corev1.Pod) {
			p.Spec.RestartPolicy, p.Spec.Containers[0].RestartPolicy = never, &always
		}, killed: true, open: true},
		"shared": {exit: Exit{Code: 137}, change: func(p *corev1.Pod) { p.Spec.ShareProcessNamespace = new(true) },
			killed: true, open: true, evidence: "shares a PID namespace"},
		"host's": {exit: Exit{Code: 137}, change: func(p *corev1.Pod) { p.Spec.HostPID = true }, killed: true, open: true,
			evidence: "the host's PID namespace"},
	} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart", UID: "u"}, Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyAlways, Containers: []corev1.Container{{Name: "web"}}}}
		if c.change != nil {
			c.change(p)
		}
		c.exit.At = at
		f, killed := Struck(p, ContainerOf(p, "web"), Container{ID: "id", Name: "web", Attempt: 2, StartedAt: at.Add(-time.Hour)}, c.exit,
			at.Add(time.Second))
		if killed != c.killed || f.Open != c.open {
			t.Errorf("%s: killed %v, open %v: %+v", name, killed, f.Open, f)
		}
		if killed && (f.Kind != drift.Killed || f.Place != "web" || !f.Since.Equal(at) || f.Open == (f.How != "") ||
			!strings.Contains(strings.Join(f.Evidence, "\n"), c.evidence)) {
			t.Errorf("%s: %+v", name, f)
		}
		done := Restarted(f, 3, at)
		if killed && (done.Open || done.ID != f.ID || done.Repaired != at || done.How != "restarted, as restart 3") {
			t.Errorf("%s: %+v", name, done)
		}
	}
}

// TestGraceOfCenturies: a grace that is longer than a duration can be is none that is over.
func TestGraceOfCenturies(t *testing.T) {
	pod := &corev1.Pod{}
	pod.Spec.TerminationGracePeriodSeconds = new(int64(9999999999))
	if grace := graceOf(pod, time.Now()); grace < 1000*time.Hour {
		t.Errorf("containers get %v", grace)
	}
}
