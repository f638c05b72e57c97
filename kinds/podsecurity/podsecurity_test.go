package podsecurity

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/pod-security-admission/admission"
	admissionapi "k8s.io/pod-security-admission/admission/api"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/metrics"
	"k8s.io/pod-security-admission/policy"
)

// cluster is what Kubernetes' plugin asks.
type cluster struct {
	namespace *corev1.Namespace
	pods      []*corev1.Pod
}

func (c cluster) GetNamespace(context.Context, string) (*corev1.Namespace, error) {
	return c.namespace, nil
}

func (c cluster) ListPods(context.Context, string) ([]*corev1.Pod, error) {
	return slices.Clone(c.pods), nil
}

type uncounted struct{}

func (uncounted) RecordEvaluation(metrics.Decision, api.LevelVersion, metrics.Mode, api.Attributes) {}
func (uncounted) RecordExemption(api.Attributes)                                                    {}
func (uncounted) RecordError(bool, api.Attributes)                                                  {}

func kubernetes(t *testing.T, in cluster) *admission.Admission {
	t.Helper()
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	plugin := &admission.Admission{
		Configuration: &admissionapi.PodSecurityConfiguration{Defaults: admissionapi.PodSecurityDefaults{
			Enforce: "privileged", EnforceVersion: "latest", Audit: "privileged", AuditVersion: "latest",
			Warn: "privileged", WarnVersion: "latest",
		}},
		Evaluator: evaluator, Metrics: uncounted{}, NamespaceGetter: in, PodLister: in,
	}
	if err := plugin.CompleteConfiguration(); err != nil {
		t.Fatal(err)
	}
	if err := plugin.ValidateConfiguration(); err != nil {
		t.Fatal(err)
	}
	return plugin
}

func oneOf[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func labels(r *rand.Rand) map[string]string {
	out := map[string]string{"kubernetes.io/metadata.name": "shop"}
	for _, mode := range []string{"enforce", "audit", "warn"} {
		if level := oneOf(r, "", "privileged", "baseline", "restricted", "restricted", "strict"); level != "" {
			out["pod-security.kubernetes.io/"+mode] = level
		}
		if version := oneOf(r, "", "", "latest", "v1.0", "v1.22", "v1.29", "v1.99", "1.30"); version != "" {
			out["pod-security.kubernetes.io/"+mode+"-version"] = version
		}
	}
	return out
}

func draw(r *rand.Rand, name string) *corev1.Pod {
	container := func(name string) corev1.Container {
		c := corev1.Container{Name: name, Image: "example.org/a:1"}
		if r.IntN(3) > 0 {
			c.SecurityContext = &corev1.SecurityContext{
				Privileged: oneOf(r, nil, nil, new(true)), AllowPrivilegeEscalation: oneOf(r, nil, new(false), new(false)),
				RunAsNonRoot: oneOf(r, nil, new(true)), RunAsUser: oneOf(r, nil, new(int64(0)), new(int64(7))),
				Capabilities: oneOf(r, nil, &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
					&corev1.Capabilities{Add: []corev1.Capability{"NET_RAW"}}),
			}
		}
		if r.IntN(5) == 0 {
			c.Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80}}
		}
		return c
	}
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
	p.Spec.Containers = []corev1.Container{container("main")}
	if r.IntN(3) == 0 {
		p.Spec.InitContainers = []corev1.Container{container("first")}
	}
	p.Spec.HostNetwork, p.Spec.HostPID = r.IntN(6) == 0, r.IntN(6) == 0
	if r.IntN(2) == 0 {
		p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: new(true),
			SeccompProfile: &corev1.SeccompProfile{
				Type: oneOf(r, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)}}
	}
	if r.IntN(5) == 0 {
		p.Annotations = map[string]string{"container.apparmor.security.beta.kubernetes.io/main": "unconfined"}
	}
	if r.IntN(5) == 0 {
		host := &corev1.HostPathVolumeSource{Path: "/"}
		p.Spec.Volumes = []corev1.Volume{{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: host}}}
	}
	if owner := r.IntN(3); owner > 0 {
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web", UID: types.UID(fmt.Sprint("uid-", owner)),
			Controller: new(true)}}
	}
	return p
}

// TestPodsAreJudgedAsInKubernetes lets Kubernetes' plugin judge the same pods in the same namespaces.
func TestPodsAreJudgedAsInKubernetes(t *testing.T) {
	refused, warned, audited := 0, 0, 0
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 8))
		given, pod := labels(r), draw(r, "cart")
		plugin := kubernetes(t, cluster{namespace: &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: given}}})
		answer := plugin.Validate(t.Context(), &api.AttributesRecord{Name: "cart", Namespace: "shop",
			Kind: corev1.SchemeGroupVersion.WithKind("Pod"), Resource: corev1.SchemeGroupVersion.WithResource("pods"),
			Operation: admissionv1.Create, Object: pod})
		got := Refused(given, &pod.ObjectMeta, &pod.Spec)
		if answer.Allowed != (got == "") || got != "" && answer.Result.Message != `pods "cart" is forbidden: `+got {
			t.Fatalf("seed %d, %v: got %q, want %v", seed, given, got, answer)
		}
		if got != "" {
			refused++
			continue
		}
		want := answer.Warnings
		if audit := answer.AuditAnnotations[api.AuditViolationsAnnotationKey]; audit != "" && !slices.Contains(want, audit) {
			want = append(slices.Clone(want), "audit: "+audit)
			audited++
		}
		told := Told(given, &pod.ObjectMeta, &pod.Spec)
		if !slices.Equal(told, want) || len(told) > 0 && !Telling(given) {
			t.Fatalf("seed %d, %v: got %q, want %q", seed, given, told, want)
		}
		if len(told) > 0 {
			warned++
		}
	}
	if refused < 200 || warned < 100 || audited < 20 {
		t.Errorf("%d are refused, %d warned of, %d audited otherwise", refused, warned, audited)
	}
}

// TestNewLabelsAreJudgedAsInKubernetes lets Kubernetes' plugin judge the same changes of labels over the same pods.
func TestNewLabelsAreJudgedAsInKubernetes(t *testing.T) {
	wrong, warned := 0, 0
	for seed := range uint64(1000) {
		r := rand.New(rand.NewPCG(seed, 9))
		var pods []*corev1.Pod
		for n := range r.IntN(8) {
			pods = append(pods, draw(r, fmt.Sprintf("cart-%d", (n*5)%8)))
		}
		old, new := labels(r), labels(r)
		if _, errs := Of(old); len(errs) > 0 {
			continue
		}
		before := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: old}}
		after := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: new}}
		answer := kubernetes(t, cluster{pods: pods}).Validate(t.Context(), &api.AttributesRecord{Name: "shop", Namespace: "shop",
			Kind: schema.GroupVersionKind{Version: "v1", Kind: "Namespace"}, Resource: corev1.SchemeGroupVersion.WithResource("namespaces"),
			Operation: admissionv1.Update, Object: after, OldObject: before})
		if _, errs := Of(new); answer.Allowed != (len(errs) == 0) {
			t.Fatalf("seed %d: %v for %v", seed, errs, answer)
		} else if len(errs) > 0 {
			wrong++
			for _, e := range errs {
				if !strings.Contains(answer.Result.Message, e.Error()) {
					t.Errorf("seed %d: %q has not %q", seed, answer.Result.Message, e)
				}
			}
			continue
		}
		got := Relabelled("shop", old, new, pods)
		if diff := cmp.Diff(answer.Warnings, got); diff != "" {
			t.Fatalf("seed %d: Kubernetes (-) and ours (+)\n%s", seed, diff)
		}
		if len(got) > 0 {
			warned++
		}
	}
	if wrong < 50 || warned < 50 {
		t.Errorf("%d changes are wrong, %d are warned of", wrong, warned)
	}
}

// TestManyPods: a new level is checked against so many, as in Kubernetes, of each controller at least one.
func TestManyPods(t *testing.T) {
	var pods []*corev1.Pod
	for n := range maxPods + 5 {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("cart-%04d", n), Namespace: "shop",
			OwnerReferences: []metav1.OwnerReference{{UID: "one", Controller: new(true)}}}}
		p.Spec.Containers = []corev1.Container{{Name: "main"}}
		pods = append(pods, p)
	}
	pods[len(pods)-1].OwnerReferences = nil
	pods[len(pods)-1].Spec.HostNetwork = true
	got := Relabelled("shop", nil, map[string]string{api.EnforceLevelLabel: "baseline"}, pods)
	want := []string{
		"new PodSecurity enforce level only checked against the first 3000 of 3005 existing pods",
		`existing pods in namespace "shop" violate the new PodSecurity enforce level "baseline:latest"`,
		"cart-3004: host namespaces",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func BenchmarkRefused(b *testing.B) {
	pod := draw(rand.New(rand.NewPCG(1, 1)), "cart")
	for _, given := range []map[string]string{nil, {"kubernetes.io/metadata.name": "shop"}, {api.EnforceLevelLabel: "restricted"}} {
		b.Run(fmt.Sprint(len(given), given[api.EnforceLevelLabel]), func(b *testing.B) {
			for b.Loop() {
				Refused(given, &pod.ObjectMeta, &pod.Spec)
			}
		})
	}
}
