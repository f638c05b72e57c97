package health

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/store/view"
)

// TestRejected: of a pod that its node did not take, or has ended, the cause says why, and not how much was in use then: each pod
// that follows would have another one.
func TestRejected(t *testing.T) {
	failed := func(reason, message string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.Phase, p.Status.Reason, p.Status.Message = corev1.PodFailed, reason, message
		}
	}
	for want, change := range map[string]func(*corev1.Pod){
		`SysctlForbidden: forbidden sysctl: "net.core.somaxconn" not allowlisted`: failed("SysctlForbidden",
			`Pod was rejected: forbidden sysctl: "net.core.somaxconn" not allowlisted`),
		"Evicted: The node was low on resource: memory": failed("Evicted", "The node was low on resource: memory. Threshold quantity: "+
			"104857600, available: 93Mi. Container a was using 120Mi, request is 0, has larger consumption of memory. "),
		"Evicted: Pod ephemeral local storage usage exceeds the total limit of containers 10Mi": failed("Evicted",
			"Pod ephemeral local storage usage exceeds the total limit of containers 10Mi. "),
		"NodeShutdown: Pod was rejected as the node is shutting down": failed("NodeShutdown",
			"Pod was rejected as the node is shutting down."),
		"NodeLost": failed("NodeLost", ""),
	} {
		key := kinds.For[*corev1.Pod]().Key("shop", "p")
		got := At(seen(view.Of(podOf(nil, "p", change)), key), now).Of(key)
		if got.State != kinds.Failed || got.Cause != want {
			t.Errorf("%v %q, want %q", got.State, got.Cause, want)
		}
	}
}

// TestSandbox: a sandbox that cannot be made is a failure after the time that a volume has.
func TestSandbox(t *testing.T) {
	const why = "can't set `spec.hostUsers: false`, runtime does not support user namespaces"
	for after, state := range map[time.Duration]kinds.State{hinderedAfter / 2: kinds.Progressing, hinderedAfter: kinds.Failed} {
		key := kinds.For[*corev1.Pod]().Key("shop", "p")
		got := At(seen(view.Of(podOf(nil, "p", func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionFalse,
				Reason: "FailedCreatePodSandBox", Message: why, LastTransitionTime: metav1.NewTime(now.Add(-after))}}
		})), key), now).Of(key)
		if want := "FailedCreatePodSandBox: " + why; got.State != state || got.Cause != want {
			t.Errorf("after %s: %v %q, want %v %q", after, got.State, got.Cause, state, want)
		}
	}
}

// TestResized: a pod that is ready is healthy once its node has taken over what was pushed, and says why it has not.
func TestResized(t *testing.T) {
	resize := func(kind corev1.PodConditionType, reason, message string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.Conditions = append(p.Status.Conditions,
				corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, Reason: reason, Message: message})
		}
	}
	const small = "Node didn't have enough capacity: cpu, requested: 150000, capacity: 2000"
	for name, c := range map[string]struct {
		change func(*corev1.Pod)
		state  kinds.State
		cause  string
	}{
		"never": {resize(corev1.PodResizePending, corev1.PodReasonInfeasible, small), kinds.Failed,
			"PodResizePending: Infeasible: " + small},
		"not yet": {resize(corev1.PodResizePending, corev1.PodReasonDeferred, "Node didn't have enough resource: cpu"), kinds.Progressing,
			"PodResizePending: Deferred: Node didn't have enough resource: cpu"},
		"goes on": {resize(corev1.PodResizeInProgress, "", ""), kinds.Progressing, "PodResizeInProgress"},
		"fails": {resize(corev1.PodResizeInProgress, corev1.PodReasonError, "in use"), kinds.Failed,
			"PodResizeInProgress: Error: in use"},
		"unseen": {func(p *corev1.Pod) {
			p.Spec.NodeName, p.Generation, p.Status.ObservedGeneration = "n", 2, 1
		}, kinds.Progressing, "change not observed yet"},
		"seen": {func(p *corev1.Pod) {
			p.Spec.NodeName, p.Generation, p.Status.ObservedGeneration = "n", 2, 2
		}, kinds.Healthy, ""},
	} {
		key := kinds.For[*corev1.Pod]().Key("shop", "p")
		if got := At(seen(view.Of(podOf(nil, "p", isReady, c.change)), key), now).Of(key); got.State != c.state || got.Cause != c.cause {
			t.Errorf("%s: %v %q, want %v %q", name, got.State, got.Cause, c.state, c.cause)
		}
	}
}
