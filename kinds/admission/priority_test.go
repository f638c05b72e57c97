package admission

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/informers"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	"k8s.io/kubernetes/plugin/pkg/admission/priority"

	"lockstep/kinds"
)

// objects are a cluster.
type objects []kinds.Object

func (os objects) Get(k kinds.Key) kinds.Object {
	for _, o := range os {
		if kinds.KeyOf(o) == k {
			return o
		}
	}
	return nil
}

func (os objects) List(of schema.GroupResource, namespace string) iter.Seq[kinds.Object] {
	return func(yield func(kinds.Object) bool) {
		for _, o := range os {
			if kinds.Of(o).GroupResource() == of && (namespace == "" || o.GetNamespace() == namespace) && !yield(o) {
				return
			}
		}
	}
}

// TestPriorityIsKubernetes lets Kubernetes' plugin admit the same pods to the same clusters.
func TestPriorityIsKubernetes(t *testing.T) {
	refused := 0
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 8))
		var cluster objects
		factory := informers.NewSharedInformerFactory(nil, 0)
		classes := factory.Scheduling().V1().PriorityClasses().Informer().GetStore()
		add := func(c *schedulingv1.PriorityClass) {
			cluster = append(cluster, c)
			if err := classes.Add(c); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range SystemClasses() {
			add(c)
		}
		policies := []corev1.PreemptionPolicy{corev1.PreemptLowerPriority, corev1.PreemptNever}
		for n := range r.IntN(4) {
			add(&schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("class-", n)}, Value: int32(n) - 1,
				GlobalDefault: r.IntN(2) == 0, PreemptionPolicy: &policies[r.IntN(2)]})
		}
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart"}}
		pod.Spec.PriorityClassName = []string{"", "", "class-0", "class-1", "class-2", "system-node-critical"}[r.IntN(6)]
		if r.IntN(3) == 0 {
			pod.Spec.Priority = new(r.Int32N(3) - 1)
		}
		if r.IntN(3) == 0 {
			pod.Spec.PreemptionPolicy = &policies[r.IntN(2)]
		}

		plugin := priority.NewPlugin()
		plugin.SetExternalKubeInformerFactory(factory)
		var theirs core.Pod
		if err := legacyscheme.Scheme.Convert(pod, &theirs, nil); err != nil {
			t.Fatal(err)
		}
		want := plugin.Admit(t.Context(), admission.NewAttributesRecord(&theirs, nil, core.Kind("Pod").WithVersion("v1"), "shop", "cart",
			core.Resource("pods").WithVersion("v1"), "", admission.Create, nil, false, nil), nil)
		got := Admit(pod, cluster)
		if (want == nil) != (got == nil) || want != nil && want.Error() != `pods "cart" is forbidden: `+got.Detail {
			t.Fatalf("seed %d: got %v, want %v", seed, got, want)
		}
		if got != nil {
			refused++
			continue
		}
		var wanted corev1.Pod
		if err := legacyscheme.Scheme.Convert(&theirs, &wanted, nil); err != nil {
			t.Fatal(err)
		}
		if wanted.Spec.PreemptionPolicy == nil || pod.Spec.PreemptionPolicy == nil {
			t.Fatalf("seed %d: no policy", seed)
		}
		for _, p := range []*corev1.Pod{pod, &wanted} {
			p.Spec = corev1.PodSpec{PriorityClassName: p.Spec.PriorityClassName, Priority: p.Spec.Priority,
				PreemptionPolicy: p.Spec.PreemptionPolicy}
		}
		if diff := cmp.Diff(wanted.Spec, pod.Spec); diff != "" {
			t.Fatalf("seed %d: Kubernetes (-) and ours (+)\n%s", seed, diff)
		}
	}
	if refused == 0 || refused == 500 {
		t.Errorf("%d of 500 are refused", refused)
	}
}
