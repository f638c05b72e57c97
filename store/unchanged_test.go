package store_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
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
			next.Status.PodIP = "10.42.0.9" // the list of addresses is a default
		}
		same := true // also where metadata have changed
		switch random.IntN(4) {
		case 0:
			next.Spec.Containers[0].Image, same = fmt.Sprint("web:", step), false
		case 1:
			next.Labels["step"] = fmt.Sprint(step)
		}
		runtime.GC() // what is shared does not hang on an older state
		v = wait(t, s, commit(t, s, put(next, kinds.Revision(old))))
		got, _ := view.Get[*corev1.Pod](v, "shop", "web")
		next.ResourceVersion = got.ResourceVersion
		strategy.Default(next)
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

// TestAlike writes pods of two templates, in three namespaces, most of them on nodes: those of one share their specification, but for
// the node, and nothing else, and each is as it was written.
func TestAlike(t *testing.T) {
	client := etcdtest.Client(t)
	opts := store.Options{Default: strategy.Default}
	s := open(t, client, opts)
	var group store.Group
	var want []*corev1.Pod
	for i := range 40 {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Namespace: fmt.Sprint("ns-", i%3), Name: fmt.Sprint("web-", i), UID: types.UID(fmt.Sprint("uid-", i)),
			CreationTimestamp: metav1.Unix(1700000000, 0), Labels: map[string]string{"number": fmt.Sprint(i)},
		}}
		p.Spec.Containers = []corev1.Container{{Name: "web", Image: fmt.Sprint("web:", i%2), Resources: corev1.ResourceRequirements{
			Limits: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100.5m")}, // rounded, and requested, by default
		}}}
		if i%4 != 0 {
			p.Spec.NodeName = fmt.Sprint("node-", i)
		}
		p.Spec.Hostname = fmt.Sprint("web-", i%2) // what stands behind the node's name counts, too
		p.Status = corev1.PodStatus{Phase: corev1.PodRunning, Message: fmt.Sprint(i), PodIP: "10.42.0.9"}
		group, want = append(group, store.Write{Key: kinds.KeyOf(p), Object: p}), append(want, p)
	}
	v := wait(t, s, commit(t, s, group))
	fresh := wait(t, open(t, client, opts), v.Revision())
	for _, v := range []*view.View{v, fresh} {
		specs := map[*corev1.Container]string{}
		for i, p := range want {
			got, _ := view.Get[*corev1.Pod](v, p.Namespace, p.Name)
			expected := p.DeepCopy()
			strategy.Default(expected)
			expected.TypeMeta, expected.Generation, expected.ResourceVersion = got.TypeMeta, 1, got.ResourceVersion
			if diff := cmp.Diff(expected, got); diff != "" {
				t.Errorf("pod %d: %s", i, diff)
			}
			specs[&got.Spec.Containers[0]] = got.Spec.Containers[0].Image
		}
		// Two goroutines may each read the first of a template.
		if len(specs) < 2 || len(specs) > 4 {
			t.Errorf("there are %d specifications, want one a template: %v", len(specs), specs)
		}
	}
}

var podKey = kinds.For[*corev1.Pod]().Key("shop", "web")

// TestDefaultsOfStatus is why a status that has changed alone gets its defaults alone, and a pod may have another's defaulted
// spec: those of one part are not for another, and metadata have none.
func TestDefaultsOfStatus(t *testing.T) {
	filler := randfill.NewWithSeed(3).NilChance(0.2).NumElements(0, 3).MaxDepth(8)
	for range 200 {
		for _, o := range []kinds.Object{&corev1.Pod{}, &appsv1.ReplicaSet{}, &appsv1.Deployment{}} {
			filler.Fill(o)
			kind := kinds.Of(o)
			before := o.DeepCopyObject().(kinds.Object)
			status := kind.WithStatus(kind.New(), before.DeepCopyObject().(kinds.Object))
			strategy.Default(o)
			strategy.Default(status)
			if diff := cmp.Diff(kind.WithStatus(before, o), kind.WithStatus(before, status)); diff != "" {
				t.Fatalf("%s: -whole +status alone:\n%s", kind.Kind, diff)
			}
			if p, ok := before.(*corev1.Pod); ok {
				spec := &corev1.Pod{Spec: *p.Spec.DeepCopy()}
				strategy.Default(spec)
				if diff := cmp.Diff(o.(*corev1.Pod).Spec, spec.Spec); diff != "" {
					t.Fatalf("-whole +spec alone:\n%s", diff)
				}
			}
			if diff := cmp.Diff(meta.AsPartialObjectMetadata(before), meta.AsPartialObjectMetadata(o)); diff != "" {
				t.Fatalf("%s: defaults are set in the metadata:\n%s", kind.Kind, diff)
			}
		}
	}
}
