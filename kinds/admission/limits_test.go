package admission

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/plugin/pkg/admission/limitranger"
)

// TestLimitsAreKubernetes lets Kubernetes' plugin give the same pods what they lack, and judge them.
func TestLimitsAreKubernetes(t *testing.T) {
	refused, given := 0, 0
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 9))
		pod := randomPod(r)
		var cluster objects
		var ranges []*corev1.LimitRange
		for n := range 1 + r.IntN(2) {
			limits := &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprint("limits-", n)}}
			for range r.IntN(3) {
				item := corev1.LimitRangeItem{Type: []corev1.LimitType{corev1.LimitTypeContainer, corev1.LimitTypePod}[r.IntN(2)]}
				for _, list := range []*corev1.ResourceList{&item.Min, &item.Max, &item.Default, &item.DefaultRequest} {
					*list = randomResources(r, 4)
				}
				if r.IntN(4) == 0 {
					item.MaxLimitRequestRatio = randomResources(r, 2)
				}
				limits.Spec.Limits = append(limits.Spec.Limits, item)
			}
			legacyscheme.Scheme.Default(limits)
			ranges = append(ranges, limits)
			cluster = append(cluster, limits)
		}
		var theirs core.Pod
		if err := legacyscheme.Scheme.Convert(pod.DeepCopy(), &theirs, nil); err != nil {
			t.Fatal(err)
		}
		var want []string
		actions := &limitranger.DefaultLimitRangerActions{}
		for _, limits := range ranges {
			if err := actions.MutateLimit(limits, "pods", &theirs); err != nil {
				t.Fatal(err)
			}
		}
		for _, limits := range ranges {
			if err := actions.ValidateLimit(limits, "pods", &theirs); err != nil {
				var all utilerrors.Aggregate
				if !errors.As(err, &all) {
					t.Fatal(err)
				}
				for _, e := range all.Errors() {
					want = append(want, e.Error())
				}
				break
			}
		}
		slices.Sort(want)
		want = slices.Compact(want)

		got := Admit(pod, cluster)
		if (got == nil) != (len(want) == 0) {
			t.Fatalf("seed %d: got %v, want %q", seed, got, want)
		}
		if got != nil {
			refused++
			text := strings.TrimSuffix(strings.TrimPrefix(got.Detail, "["), "]")
			missing := slices.ContainsFunc(want, func(w string) bool { return !strings.Contains(text, w) })
			if missing || len(text) != len(strings.Join(want, ", ")) {
				t.Fatalf("seed %d: got %s, want %q", seed, got.Detail, want)
			}
			continue
		}
		var wanted corev1.Pod
		if err := legacyscheme.Scheme.Convert(&theirs, &wanted, nil); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(wanted.Annotations, pod.Annotations); diff != "" {
			t.Fatalf("seed %d: Kubernetes (-) and ours (+)\n%s", seed, diff)
		}
		given += len(pod.Annotations)
		for _, list := range []func(*corev1.PodSpec) []corev1.Container{
			func(s *corev1.PodSpec) []corev1.Container { return s.Containers },
			func(s *corev1.PodSpec) []corev1.Container { return s.InitContainers },
		} {
			for i, c := range list(&pod.Spec) {
				if diff := cmp.Diff(quantities(list(&wanted.Spec)[i]), quantities(c)); diff != "" {
					t.Fatalf("seed %d: %s: Kubernetes (-) and ours (+)\n%s", seed, c.Name, diff)
				}
			}
		}
	}
	if refused < 100 || refused > 1900 || given == 0 {
		t.Errorf("%d of 2000 are refused, %d are given something", refused, given)
	}
}

func quantities(c corev1.Container) map[string]string {
	out := map[string]string{}
	for name, q := range c.Resources.Requests {
		out["request "+string(name)] = q.String()
	}
	for name, q := range c.Resources.Limits {
		out["limit "+string(name)] = q.String()
	}
	return out
}

func randomPod(r *rand.Rand) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart"}}
	always := corev1.ContainerRestartPolicyAlways
	for n := range 1 + r.IntN(2) {
		pod.Spec.Containers = append(pod.Spec.Containers, randomContainer(r, fmt.Sprint("main-", n)))
	}
	for n := range r.IntN(3) {
		c := randomContainer(r, fmt.Sprint("init-", n))
		if r.IntN(2) == 0 {
			c.RestartPolicy = &always
		}
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, c)
	}
	legacyscheme.Scheme.Default(pod)
	return pod
}

func randomContainer(r *rand.Rand, name string) corev1.Container {
	return corev1.Container{Name: name, Resources: corev1.ResourceRequirements{
		Requests: randomResources(r, 2), Limits: randomResources(r, 2),
	}}
}

// randomResources has each of two resources once in so many times.
func randomResources(r *rand.Rand, once int) corev1.ResourceList {
	var out corev1.ResourceList
	for _, of := range []struct {
		name   corev1.ResourceName
		values []string
	}{
		{corev1.ResourceCPU, []string{"0", "100m", "300m", "1", "1100m", "2"}},
		{corev1.ResourceMemory, []string{"64Mi", "1Gi", "1500M", "9Pi"}},
	} {
		if r.IntN(once) == 0 {
			if out == nil {
				out = corev1.ResourceList{}
			}
			out[of.name] = resource.MustParse(of.values[r.IntN(len(of.values))])
		}
	}
	return out
}
