package store_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/randfill"

	"lockstep/daemon/etcd/etcdtest"
	"lockstep/kinds"
	"lockstep/kinds/strategy"
	"lockstep/store"
	"lockstep/store/view"
)

// TestUnchangedHead writes random states of one pod, of which some change the status only: each is in the view as a
// store that reads it for the first time has it, and a spec that stayed is not there twice.
func TestUnchangedHead(t *testing.T) {
	client := etcdtest.Client(t)
	opts := store.Options{Default: strategy.Default}
	s := open(t, client, opts)
	random := rand.New(rand.NewPCG(1, 2))
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", Labels: map[string]string{"app": "web"}}}
	p.Spec.Containers = []corev1.Container{{Name: "web", Image: "web:1"}}
	v := wait(t, s, commit(t, s, put(p, 0)))
	for step := range 40 {
		old, _ := view.Get[*corev1.Pod](v, "shop", "web")
		next := old.DeepCopy()
		next.Status = corev1.PodStatus{Phase: corev1.PodRunning, Message: fmt.Sprint(step)}
		if random.IntN(2) == 0 {
			next.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}
		same := true
		switch random.IntN(4) {
		case 0:
			next.Spec.Containers[0].Image, same = fmt.Sprint("web:", step), false
		case 1:
			next.Labels["step"], same = fmt.Sprint(step), false
		}
		v = wait(t, s, commit(t, s, put(next, kinds.Revision(old))))
		got, _ := view.Get[*corev1.Pod](v, "shop", "web")
		next.ResourceVersion = got.ResourceVersion
		if diff := cmp.Diff(next, got); diff != "" {
			t.Fatalf("step %d: %s", step, diff)
		}
		if shared := &old.Spec.Containers[0] == &got.Spec.Containers[0]; shared != same {
			t.Errorf("step %d: the spec is shared: %v, want %v", step, shared, same)
		}
		if old.Status.Message == got.Status.Message {
			t.Errorf("step %d: the older state has changed", step)
		}
	}
	fresh := open(t, client, opts)
	got, want := wait(t, fresh, v.Revision()).Get(podKey), v.Get(podKey)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("read anew: %s", diff)
	}

	// A pod that is made again under the name has nothing of the first.
	wait(t, s, commit(t, s, store.Group{{Key: podKey, If: kinds.Revision(want)}}))
	p.Spec.Containers[0].Image = "web:new"
	v = wait(t, s, commit(t, s, put(p, 0)))
	if got, _ := view.Get[*corev1.Pod](v, "shop", "web"); got.Spec.Containers[0].Image != "web:new" || got.Status.Message != "" {
		t.Errorf("made again: %+v", got)
	}
}

var podKey = kinds.For[*corev1.Pod]().Key("shop", "web")

// TestDefaultsLeaveStatusAlone is why an object whose status alone has changed needs no defaults: Kubernetes sets none
// outside of the spec of these kinds.
func TestDefaultsLeaveStatusAlone(t *testing.T) {
	filler := randfill.NewWithSeed(3).NilChance(0.2).NumElements(0, 3).MaxDepth(8)
	for range 200 {
		p, rs, d := &corev1.Pod{}, &appsv1.ReplicaSet{}, &appsv1.Deployment{}
		for _, part := range []any{&p.ObjectMeta, &p.Status, &rs.ObjectMeta, &rs.Status, &d.ObjectMeta, &d.Status} {
			filler.Fill(part)
		}
		for _, o := range []kinds.Object{p, rs, d} {
			before := o.DeepCopyObject()
			strategy.Default(o)
			clearSpec(before)
			clearSpec(o)
			if diff := cmp.Diff(before, o); diff != "" {
				t.Fatal(diff)
			}
		}
	}
}

func clearSpec(o any) {
	switch o := o.(type) {
	case *corev1.Pod:
		o.Spec = corev1.PodSpec{}
	case *appsv1.ReplicaSet:
		o.Spec = appsv1.ReplicaSetSpec{}
	case *appsv1.Deployment:
		o.Spec = appsv1.DeploymentSpec{}
	}
}
