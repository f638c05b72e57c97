package health_test

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/store/view"
	"lockstep/sync/health"
)

// TestTroubles: what is not as it should be of a node is told once, and of a silent one only that it is.
func TestTroubles(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	is := func(kind corev1.NodeConditionType, status corev1.ConditionStatus, message string) corev1.NodeCondition {
		heard := metav1.NewTime(now.Add(-40 * time.Second))
		return corev1.NodeCondition{Type: kind, Status: status, Message: message, LastHeartbeatTime: heard}
	}
	ready := is(corev1.NodeReady, corev1.ConditionTrue, "kubelet is posting ready status")
	for name, c := range map[string]struct {
		conditions []corev1.NodeCondition
		want       []string
	}{
		"well": {[]corev1.NodeCondition{ready, is(corev1.NodeMemoryPressure, corev1.ConditionFalse, "enough"),
			is(kinds.NodeClock, corev1.ConditionTrue, "its clock is the control plane's")}, nil},
		"its disk and its clock": {[]corev1.NodeCondition{ready,
			is(corev1.NodeDiskPressure, corev1.ConditionTrue, "kubelet has disk pressure"),
			is(kinds.NodeClock, corev1.ConditionFalse, "its clock is 24h0m0s ahead of the control plane's")},
			[]string{"kubelet has disk pressure", "its clock is 24h0m0s ahead of the control plane's"}},
		"one cause, twice": {[]corev1.NodeCondition{is(corev1.NodeReady, corev1.ConditionFalse, "no network"),
			is(corev1.NodeNetworkUnavailable, corev1.ConditionTrue, "no network")}, []string{"no network"}},
		"nothing said":    {[]corev1.NodeCondition{is(corev1.NodeReady, corev1.ConditionFalse, "")}, []string{"Ready: False"}},
		"somebody else's": {[]corev1.NodeCondition{ready, is("example.com/Fine", corev1.ConditionFalse, "no")}, nil},
		"silent": {[]corev1.NodeCondition{is(corev1.NodeReady, corev1.ConditionUnknown, "stopped"),
			is(corev1.NodeMemoryPressure, corev1.ConditionUnknown, "stopped")}, []string{"node n has been silent for 40 s"}},
	} {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
		n.Status.Conditions = c.conditions
		if got := health.Troubles(view.Of(n), "n", now); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if got := health.Troubles(view.Of(), "n", now); got != nil {
		t.Errorf("no node: %q", got)
	}
}
