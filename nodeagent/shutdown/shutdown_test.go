package shutdown

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestPolicies: flags as the kubelet has them.
func TestPolicies(t *testing.T) {
	for _, c := range []struct {
		texts Texts
		want  string
	}{
		{Texts{}, "[] 0s"},
		{Texts{Period: 30 * time.Second, CriticalPods: 10 * time.Second}, "[{0 20s} {2000000000 10s}] 30s"},
		{Texts{Period: 30 * time.Second}, "[{0 30s} {2000000000 0s}] 30s"},
		{Texts{ByPriority: "100000=10s,0=3m,-5=1s"}, "[{-5 1s} {0 3m0s} {100000 10s}] 3m11s"},
		{Texts{CriticalPods: time.Second}, "critical pods have a part of the grace period of 0s, and not 1s"},
		{Texts{Period: time.Second, CriticalPods: 2 * time.Second}, "critical pods have a part of the grace period of 1s, and not 2s"},
		{Texts{Period: time.Millisecond}, "a grace period of 1ms: want whole seconds"},
		{Texts{Period: -time.Second, CriticalPods: -time.Second}, "a grace period of -1s: want whole seconds"},
		{Texts{Period: time.Second, ByPriority: "0=1s"}, "grace periods by priority stand for themselves"},
		{Texts{ByPriority: "high=1s"}, `"high=1s": want PRIORITY=TIME`},
		{Texts{ByPriority: "0=0s"}, `"0=0s": a grace period of 0s: want whole seconds`},
		{Texts{ByPriority: "0=1s,0=2s"}, "priority 0 stands there twice"},
		{Texts{ByPriority: "0=1s,"}, `"": want PRIORITY=TIME`},
	} {
		p, err := Parse(c.texts)
		got := fmt.Sprint([]Share(p), " ", p.Total())
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%+v: %s, want %s", c.texts, got, c.want)
		}
	}
}

// TestGroups: who ends when, and how long each pod gets.
func TestGroups(t *testing.T) {
	pod := func(name string, priority int32, grace int64) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Priority: &priority,
			TerminationGracePeriodSeconds: &grace}}
	}
	pods := []*corev1.Pod{
		pod("dns", 2_000_000_000, 30), pod("web", 0, 30), pod("db", 1000, 5), pod("batch", -10, 60), pod("net", 2_000_001_000, 3),
		{ObjectMeta: metav1.ObjectMeta{Name: "plain"}},
	}
	for _, c := range []struct {
		texts Texts
		want  string
	}{
		{Texts{}, ""},
		{Texts{Period: 30 * time.Second, CriticalPods: 10 * time.Second},
			"20s: web 20s, db 5s, batch 20s, plain 20s; 10s: dns 10s, net 3s"},
		{Texts{Period: 30 * time.Second}, "30s: web 30s, db 5s, batch 30s, plain 30s; 0s: dns 0s, net 0s"},
		{Texts{ByPriority: "500=10s,3000=20s,2000001000=1s"}, "10s: web 10s, db 5s, batch 10s, plain 10s; 20s: dns 20s; 1s: net 1s"},
	} {
		p, err := Parse(c.texts)
		if err != nil {
			t.Fatal(err)
		}
		var groups []string
		for _, g := range p.Groups(pods) {
			var names []string
			for _, pod := range g.Pods {
				names = append(names, fmt.Sprint(pod.Name, " ", g.For(pod)))
			}
			groups = append(groups, fmt.Sprint(g.Grace, ": ", strings.Join(names, ", ")))
		}
		if got := strings.Join(groups, "; "); got != c.want {
			t.Errorf("%+v: %s, want %s", c.texts, got, c.want)
		}
	}
}
