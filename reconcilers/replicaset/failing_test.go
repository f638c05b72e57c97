package replicaset

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// TestFailingPods: pods that fail as soon as they come are not made as fast as they can be stored. Those that a node gives up are
// replaced at once, and so are those that fail after a while.
func TestFailingPods(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	labels := map[string]string{"app": "web"}
	set := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "set", ResourceVersion: "1"},
		Spec: appsv1.ReplicaSetSpec{Replicas: new(int32(5)), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}}},
	}
	decide := func(failed int, age time.Duration) (made int, d loop.Decision, told string) {
		objs := []kinds.Object{set}
		for i := range failed {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprint("web-", i), UID: types.UID(fmt.Sprint(i)),
				Labels: labels, OwnerReferences: []metav1.OwnerReference{loop.ControllerRef(set)}, ResourceVersion: "1",
				CreationTimestamp: metav1.NewTime(now.Add(-age + time.Duration(i)*time.Second))}}
			p.Status.Phase = corev1.PodFailed
			objs = append(objs, p)
		}
		d, err := New().Decide(view.Of(objs...), kinds.KeyOf(set), now)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range d.Wants {
			if w.Object.GetName() == "" {
				made++
			}
		}
		if s, ok := d.Status.(*appsv1.ReplicaSet); ok {
			for _, c := range s.Status.Conditions {
				told += string(c.Type) + " " + c.Reason + ": " + c.Message
			}
		}
		return made, d, told
	}
	const why = "ReplicaFailure FailedCreate: 20 pods have failed within 10m0s: others are made as these are longer ago"
	for _, c := range []struct {
		failed int
		age    time.Duration
		made   int
		told   string
	}{
		{0, 0, 5, ""}, {15, time.Minute, 5, ""}, {18, time.Minute, 2, why}, {20, time.Minute, 0, why}, {500, time.Minute, 0, why},
		{500, time.Hour, 5, ""},
	} {
		made, d, told := decide(c.failed, c.age)
		if made != c.made || told != c.told {
			t.Errorf("%d failed %v ago: %d made, told %q", c.failed, c.age, made, told)
		}
		if want := now.Add(failWindow - c.age); c.made < 5 && !d.Again.Equal(want) {
			t.Errorf("%d failed %v ago: looked at again at %v, want %v", c.failed, c.age, d.Again, want)
		}
	}
}
