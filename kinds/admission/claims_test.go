package admission

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/informers"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/plugin/pkg/admission/limitranger"
	"k8s.io/kubernetes/plugin/pkg/admission/storage/persistentvolume/resize"
	"k8s.io/kubernetes/plugin/pkg/admission/storage/storageclass/setdefault"

	"lockstep/kinds"
)

// claimPlugins are Kubernetes' own for claims, by their names.
func claimPlugins(t *testing.T, factory informers.SharedInformerFactory) map[string]admission.Interface {
	t.Helper()
	plugins := admission.NewPlugins()
	setdefault.Register(plugins)
	resize.Register(plugins)
	out := map[string]admission.Interface{}
	for _, name := range plugins.Registered() {
		p, err := plugins.InitPlugin(name, nil, initializer{factory})
		if err != nil {
			t.Fatal(err)
		}
		out[name] = p
	}
	return out
}

type initializer struct {
	factory informers.SharedInformerFactory
}

func (i initializer) Initialize(p admission.Interface) {
	p.(interface {
		SetExternalKubeInformerFactory(informers.SharedInformerFactory)
	}).SetExternalKubeInformerFactory(i.factory)
	p.(interface{ SetReadyFunc(admission.ReadyFunc) }).SetReadyFunc(func() bool { return true })
}

func internalClaim(t *testing.T, claim *corev1.PersistentVolumeClaim) *core.PersistentVolumeClaim {
	t.Helper()
	out := &core.PersistentVolumeClaim{}
	if err := legacyscheme.Scheme.Convert(claim.DeepCopy(), out, nil); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestClaimsAreKubernetes lets Kubernetes' plugins give claims their class, and judge their sizes.
func TestClaimsAreKubernetes(t *testing.T) {
	given, short, grown, kept := 0, 0, 0, 0
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 11))
		var cluster objects
		factory := informers.NewSharedInformerFactory(nil, 0)
		classes := factory.Storage().V1().StorageClasses().Informer().GetStore()
		for _, name := range []string{"gold", "silver", "tin"} {
			if r.IntN(3) == 0 {
				continue
			}
			c := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{}}}
			c.CreationTimestamp = metav1.NewTime(noon.Add(time.Duration(r.IntN(2)) * time.Second))
			annotation := []string{"storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"}
			c.Annotations[annotation[r.IntN(2)]] = []string{"true", "true", "false"}[r.IntN(3)]
			if n := r.IntN(3); n > 0 {
				c.AllowVolumeExpansion = new(n == 1)
			}
			cluster = append(cluster, c)
			if err := classes.Add(c); err != nil {
				t.Fatal(err)
			}
		}
		var ranges []*corev1.LimitRange
		for n := range r.IntN(3) {
			limits := &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprint("limits-", n)}}
			item := corev1.LimitRangeItem{Type: []corev1.LimitType{"PersistentVolumeClaim", "PersistentVolumeClaim", "Pod"}[r.IntN(3)]}
			for _, list := range []*corev1.ResourceList{&item.Min, &item.Max} {
				if r.IntN(2) == 0 {
					*list = corev1.ResourceList{"storage": resource.MustParse([]string{"600Mi", "1Gi", "2Gi"}[r.IntN(3)])}
				}
			}
			limits.Spec.Limits = []corev1.LimitRangeItem{item}
			ranges, cluster = append(ranges, limits), append(cluster, limits)
		}
		plugins := claimPlugins(t, factory)
		attributes := func(claim, old runtime.Object, operation admission.Operation) admission.Attributes {
			k := kinds.For[*corev1.PersistentVolumeClaim]()
			return admission.NewAttributesRecord(claim, old, k.GroupVersionKind, "shop", "data", k.GroupVersionResource(), "", operation,
				nil, false, nil)
		}

		claim := randomClaim(r, "data")
		theirs := internalClaim(t, claim)
		create := attributes(theirs, nil, admission.Create)
		err := plugins[setdefault.PluginName].(admission.MutationInterface).Admit(context.Background(), create, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := Admit(claim, cluster)
		if want, have := nameOf(theirs.Spec.StorageClassName), nameOf(claim.Spec.StorageClassName); want != have {
			t.Fatalf("seed %d: class %s, want %s", seed, have, want)
		} else if have != "none" {
			given++
		}
		if want := limited(t, ranges, theirs); want != "" || got != nil {
			short++
			if got == nil || strings.Trim(got.Detail, "[]") != want {
				t.Fatalf("seed %d: got %v, want %s", seed, got, want)
			}
		}

		changed := randomClaim(r, "data")
		changed.Spec.StorageClassName, changed.Annotations = claim.Spec.StorageClassName, claim.Annotations
		if r.IntN(8) == 0 {
			changed.Spec.StorageClassName = new("tin")
		}
		claim.Status.Phase = []corev1.PersistentVolumeClaimPhase{corev1.ClaimBound, corev1.ClaimBound, corev1.ClaimPending}[r.IntN(3)]
		update := attributes(internalClaim(t, changed), internalClaim(t, claim), admission.Update)
		want := ""
		err = plugins[resize.PluginName].(admission.ValidationInterface).Validate(context.Background(), update, nil)
		var status apierrors.APIStatus
		switch {
		case errors.As(err, &status):
			_, want, _ = strings.Cut(status.Status().Message, " is forbidden: ")
			kept++
		default:
			want = limited(t, ranges, internalClaim(t, changed))
			grown++
		}
		if got := Resize(changed, claim, cluster); (got == nil) != (want == "") || got != nil && strings.Trim(got.Detail, "[]") != want {
			t.Fatalf("seed %d: got %v, want %s", seed, got, want)
		}
	}
	if given < 100 || short < 100 || grown < 100 || kept < 100 {
		t.Errorf("%d get a class, %d are outside of limits, %d may change, %d may not", given, short, grown, kept)
	}
}

func nameOf(name *string) string {
	if name == nil {
		return "none"
	}
	return *name
}

// limited is what Kubernetes' plugin LimitRanger says of a claim.
func limited(t *testing.T, ranges []*corev1.LimitRange, claim *core.PersistentVolumeClaim) string {
	t.Helper()
	for _, limits := range ranges {
		err := (&limitranger.DefaultLimitRangerActions{}).ValidateLimit(limits, "persistentvolumeclaims", claim)
		var all utilerrors.Aggregate
		if !errors.As(err, &all) {
			continue
		}
		var texts []string
		for _, e := range all.Errors() {
			texts = append(texts, e.Error())
		}
		return strings.Join(slices.Compact(texts), ", ")
	}
	return ""
}
