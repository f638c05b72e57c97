package health

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/store/view"
)

// shut has a pod whose containers are ready wait for two of its three readiness gates.
func shut(p *corev1.Pod) {
	for _, t := range []corev1.PodConditionType{"a.example/in", "b.example/in", "c.example/in"} {
		p.Spec.ReadinessGates = append(p.Spec.ReadinessGates, corev1.PodReadinessGate{ConditionType: t})
	}
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse, Reason: podstatus.GatesNotReady},
		{Type: "b.example/in", Status: corev1.ConditionFalse}, {Type: "c.example/in", Status: corev1.ConditionTrue}}
}

// TestGates: what wants pods says which gates one of them waits for, unless another has failed.
func TestGates(t *testing.T) {
	rolling := func(d *appsv1.Deployment) { d.Status.ReadyReplicas, d.Status.AvailableReplicas = 2, 2 }
	current, key := set("cart-2", "2"), kinds.For[*appsv1.Deployment]().Key("shop", "cart")
	for _, c := range []struct {
		pods  []kinds.Object
		state kinds.State
		cause string
	}{
		{[]kinds.Object{podOf(current, "p", gated)}, kinds.Progressing, "SchedulingGated, 2/3 ready: waits for a.example/x"},
		{[]kinds.Object{podOf(current, "p", shut)}, kinds.Progressing,
			"ReadinessGatesNotReady, 2/3 ready: waits for a.example/in, b.example/in"},
		{[]kinds.Object{podOf(current, "p", shut), podOf(current, "q", waits("CrashLoopBackOff"))}, kinds.Failed,
			"CrashLoopBackOff, 2/3 ready"},
	} {
		objects := append(c.pods, deploy(rolling), current)
		if got := At(seen(view.Of(objects...), key), now).Of(key); got.State != c.state || got.Cause != c.cause {
			t.Errorf("%v %q, want %v %q", got.State, got.Cause, c.state, c.cause)
		}
	}
}
