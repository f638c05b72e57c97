package admission

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/plugin/pkg/admission/runtimeclass"
)

// TestRuntimeClassIsKubernetes lets Kubernetes' plugin admit the same pods to the same clusters.
func TestRuntimeClassIsKubernetes(t *testing.T) {
	refused := 0
	for seed := range uint64(1000) {
		r := rand.New(rand.NewPCG(seed, 8))
		overhead := func() corev1.ResourceList {
			return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse([]string{"100m", "0.1", "1"}[r.IntN(3)])}
		}
		tolerations := func() (out []corev1.Toleration) {
			for range r.IntN(3) {
				out = append(out, corev1.Toleration{
					Key: []string{"", "a", "b"}[r.IntN(3)], Value: []string{"", "v"}[r.IntN(2)],
					Operator: []corev1.TolerationOperator{"", corev1.TolerationOpEqual, corev1.TolerationOpExists}[r.IntN(3)],
					Effect:   []corev1.TaintEffect{"", corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute}[r.IntN(3)],
				})
				if last := &out[len(out)-1]; last.Effect == corev1.TaintEffectNoExecute && r.IntN(2) == 0 {
					last.TolerationSeconds = new(r.Int64N(3))
				}
			}
			return out
		}
		selector := func() map[string]string {
			return []map[string]string{nil, {}, {"disk": "ssd"}, {"disk": "hdd"}, {"zone": "one"}}[r.IntN(5)]
		}
		var cluster objects
		factory := informers.NewSharedInformerFactory(nil, 0)
		classes := factory.Node().V1().RuntimeClasses().Informer().GetStore()
		for n := range r.IntN(3) {
			c := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("class-", n)}, Handler: "runc"}
			if r.IntN(2) == 0 {
				c.Overhead = &nodev1.Overhead{PodFixed: overhead()}
			}
			if r.IntN(2) == 0 {
				c.Scheduling = &nodev1.Scheduling{NodeSelector: selector(), Tolerations: tolerations()}
			}
			cluster = append(cluster, c)
			if err := classes.Add(c); err != nil {
				t.Fatal(err)
			}
		}
		pod := podOf()
		pod.Spec.AutomountServiceAccountToken = new(false)
		if r.IntN(4) > 0 {
			pod.Spec.RuntimeClassName = new([]string{"class-0", "class-1"}[r.IntN(2)])
		}
		if r.IntN(4) == 0 {
			pod.Spec.Overhead = overhead()
		}
		pod.Spec.NodeSelector, pod.Spec.Tolerations = selector(), tolerations()

		plugin := runtimeclass.NewRuntimeClass()
		plugin.SetExternalKubeInformerFactory(factory)
		plugin.SetExternalKubeClientSet(fake.NewClientset())
		var theirs core.Pod
		if err := legacyscheme.Scheme.Convert(pod.DeepCopy(), &theirs, nil); err != nil {
			t.Fatal(err)
		}
		attributes := admission.NewAttributesRecord(&theirs, nil, core.Kind("Pod").WithVersion("v1"), "shop", "cart",
			core.Resource("pods").WithVersion("v1"), "", admission.Create, nil, false, nil)
		want := plugin.Admit(t.Context(), attributes, nil)
		if want == nil {
			want = plugin.Validate(t.Context(), attributes, nil)
		}
		got := run(&pod.Spec, cluster)
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
		if diff := cmp.Diff(wanted.Spec.NodeSelector, pod.Spec.NodeSelector, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("seed %d, node selector: Kubernetes (-) and ours (+)\n%s", seed, diff)
		}
		if diff := cmp.Diff(wanted.Spec.Tolerations, pod.Spec.Tolerations); diff != "" {
			t.Fatalf("seed %d, tolerations: Kubernetes (-) and ours (+)\n%s", seed, diff)
		}
		if diff := cmp.Diff(wanted.Spec.Overhead, pod.Spec.Overhead); diff != "" {
			t.Fatalf("seed %d, overhead: Kubernetes (-) and ours (+)\n%s", seed, diff)
		}
		again := pod.Spec.DeepCopy()
		if err := run(again, cluster); err != nil || !cmp.Equal(*again, pod.Spec) {
			t.Fatalf("seed %d: admitted twice, %v\n%s", seed, err, cmp.Diff(pod.Spec, *again))
		}
	}
	if refused < 100 || refused > 900 {
		t.Errorf("%d of 1000 are refused", refused)
	}
}
