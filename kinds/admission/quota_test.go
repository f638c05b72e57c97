package admission

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/quota/v1/evaluator/core"
	testingclock "k8s.io/utils/clock/testing"

	"lockstep/internal/short"
	"lockstep/kinds"
)

// noon is when the tests judge; deletions of pods end at whole minutes, before and after it.
var noon = time.Date(2026, 1, 2, 12, 0, 30, 0, time.UTC)

// lister lists the objects of a kind for Kubernetes' evaluators.
type lister struct {
	cluster objects
	of      schema.GroupResource
}

func (l lister) List(labels.Selector) (out []runtime.Object, err error) {
	for o := range l.cluster.List(l.of, "") {
		out = append(out, o)
	}
	return out, nil
}
func (l lister) Get(string) (runtime.Object, error)                 { return nil, nil }
func (l lister) ByNamespace(ns string) cache.GenericNamespaceLister { return namespaced{l, ns} }

type namespaced struct {
	lister
	namespace string
}

func (n namespaced) List(labels.Selector) (out []runtime.Object, err error) {
	for o := range n.cluster.List(n.of, n.namespace) {
		out = append(out, o)
	}
	return out, nil
}

// evaluators are Kubernetes' own, of the kinds that the tests have, about a cluster.
func evaluators(cluster objects) quota.Registry {
	list := func(gvr schema.GroupVersionResource) (cache.GenericLister, error) {
		return lister{cluster, gvr.GroupResource()}, nil
	}
	counts := func(group, resource string, alias corev1.ResourceName) quota.Evaluator {
		gvr := schema.GroupVersionResource{Group: group, Version: "v1", Resource: resource}
		return generic.NewObjectCountEvaluator(gvr.GroupResource(), generic.ListResourceUsingListerFunc(list, gvr), alias)
	}
	return generic.NewRegistry([]quota.Evaluator{
		core.NewPodEvaluator(list, testingclock.NewFakeClock(noon)), core.NewServiceEvaluator(list),
		core.NewPersistentVolumeClaimEvaluator(list),
		counts("", "configmaps", corev1.ResourceConfigMaps), counts("", "secrets", corev1.ResourceSecrets),
		counts("apps", "deployments", ""),
	})
}

// TestQuotasAreKubernetes lets Kubernetes' controller and plugin count and judge the same worlds.
func TestQuotasAreKubernetes(t *testing.T) {
	refused, allowed, demanded := 0, 0, 0
	for seed := range short.Of(1500) {
		r := rand.New(rand.NewPCG(seed, 10))
		var cluster objects
		for n := range 1 + r.IntN(2) {
			cluster = append(cluster, randomQuota(r, fmt.Sprint("quota-", n)))
		}
		for n := range r.IntN(6) {
			cluster = append(cluster, randomObject(r, fmt.Sprint("there-", n), true))
		}
		registry := evaluators(cluster)
		var quotas []corev1.ResourceQuota
		for o := range cluster.List(schema.GroupResource{Resource: "resourcequotas"}, "shop") {
			q := o.(*corev1.ResourceQuota).DeepCopy()
			want, err := quota.CalculateUsage("shop", q.Spec.Scopes, q.Spec.Hard, registry, q.Spec.ScopeSelector)
			if err != nil {
				t.Fatal(err)
			}
			got, _ := Used(q, cluster, noon)
			if diff := cmp.Diff(texts(want), texts(got)); diff != "" {
				t.Fatalf("seed %d: %s: Kubernetes (-) and ours (+)\n%s", seed, q.Name, diff)
			}
			q.Status.Hard, q.Status.Used = q.Spec.Hard, want
			quotas = append(quotas, *q)
		}

		ours := NewQuotas(cluster, cluster, noon)
		for n := range 4 {
			o, before := randomObject(r, fmt.Sprint("new-", n), false), kinds.Object(nil)
			operation := admission.Create
			if r.IntN(2) == 0 {
				switch o.(type) {
				case *corev1.Service:
					before, operation = randomService(r, o.GetName()), admission.Update
				case *corev1.PersistentVolumeClaim:
					before, operation = randomClaim(r, o.GetName()), admission.Update
				}
			}
			if before != nil {
				before.SetResourceVersion("1")
			}
			k := kinds.Of(o)
			var old runtime.Object
			if before != nil {
				old = before
			}
			attributes := admission.NewAttributesRecord(o, old, k.GroupVersionKind, "shop", o.GetName(),
				k.GroupVersionResource(), "", operation, nil, false, nil)
			evaluator := registry.Get(k.GroupResource())
			next, want := resourcequota.CheckRequest(quotas, attributes, evaluator, nil)
			got := ours.Charge(o, before)
			switch {
			case (want == nil) != (got == nil),
				want != nil && want.Error() != fmt.Sprintf("%s %q is forbidden: %s", k.GroupResource(), o.GetName(), got.Detail):
				t.Fatalf("seed %d: got %v, want %v", seed, got, want)
			case want == nil:
				allowed++
				quotas = next
			case got.Field != "":
				demanded++
			default:
				refused++
			}
			for i, a := range ours.of("shop") {
				if diff := cmp.Diff(texts(quotas[i].Status.Used), texts(a.used)); diff != "" {
					t.Fatalf("seed %d: %s: Kubernetes (-) and ours (+)\n%s", seed, a.Name, diff)
				}
			}
		}
	}
	if refused < 20 || allowed < 20 || demanded < 5 {
		t.Errorf("%d are refused, %d are allowed, %d state too little", refused, allowed, demanded)
	}
}

func texts(list corev1.ResourceList) map[string]string {
	out := map[string]string{}
	for name, q := range list {
		out[string(name)] = q.String()
	}
	return out
}

func randomQuota(r *rand.Rand, name string) *corev1.ResourceQuota {
	q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
	q.Spec.Hard = corev1.ResourceList{}
	hard := map[corev1.ResourceName][]string{
		"cpu": {"1", "2500m", "9"}, "requests.cpu": {"2"}, "limits.cpu": {"3", "900m"}, "memory": {"2Gi"}, "requests.memory": {"1500M"},
		"limits.memory": {"4Gi", "10Pi"}, "requests.ephemeral-storage": {"1Gi"}, "hugepages-2Mi": {"4Mi"},
		"requests.example.com/gpu": {"2"}, "limits.ephemeral-storage": {"1Gi"},
		"pods": {"0", "2", "5"}, "count/pods": {"2", "6"},
	}
	scoped := r.IntN(3) == 0
	if !scoped {
		maps.Copy(hard, map[corev1.ResourceName][]string{
			"services": {"1", "3"}, "count/services": {"2"}, "services.nodeports": {"1", "3"}, "services.loadbalancers": {"1"},
			"configmaps": {"1", "4"}, "count/configmaps": {"2"}, "secrets": {"1"}, "count/secrets": {"3"},
			"count/deployments.apps": {"1"}, "persistentvolumeclaims": {"1", "4"}, "requests.storage": {"1Gi", "4Gi"},
			"gold.storageclass.storage.k8s.io/requests.storage":       {"1Gi", "5Gi"},
			"gold.storageclass.storage.k8s.io/persistentvolumeclaims": {"1"}, "count/persistentvolumeclaims": {"2"},
		})
	}
	for _, name := range slices.Sorted(maps.Keys(hard)) {
		if r.IntN(4) == 0 {
			q.Spec.Hard[name] = resource.MustParse(hard[name][r.IntN(len(hard[name]))])
		}
	}
	if !scoped {
		return q
	}
	scopes := []corev1.ResourceQuotaScope{"Terminating", "NotTerminating", "BestEffort", "NotBestEffort", "PriorityClass",
		"CrossNamespacePodAffinity"}
	if r.IntN(2) == 0 {
		q.Spec.Scopes = append(q.Spec.Scopes, scopes[r.IntN(len(scopes))])
		return q
	}
	s := corev1.ScopedResourceSelectorRequirement{ScopeName: scopes[r.IntN(len(scopes))], Operator: corev1.ScopeSelectorOpExists}
	if s.ScopeName == corev1.ResourceQuotaScopePriorityClass {
		s.Operator = []corev1.ScopeSelectorOperator{"In", "NotIn", "Exists", "DoesNotExist"}[r.IntN(4)]
		if s.Operator == corev1.ScopeSelectorOpIn || s.Operator == corev1.ScopeSelectorOpNotIn {
			s.Values = []string{"gold"}
		}
	}
	q.Spec.ScopeSelector = &corev1.ScopeSelector{MatchExpressions: []corev1.ScopedResourceSelectorRequirement{s}}
	return q
}

func randomObject(r *rand.Rand, name string, there bool) kinds.Object {
	meta := metav1.ObjectMeta{Namespace: "shop", Name: name}
	switch r.IntN(9) {
	case 0:
		return &corev1.ConfigMap{ObjectMeta: meta}
	case 1:
		return &corev1.Secret{ObjectMeta: meta}
	case 2, 3:
		return randomService(r, name)
	case 4:
		return randomClaim(r, name)
	}
	pod := randomPod(r)
	pod.ObjectMeta = meta
	pod.Spec.PriorityClassName = []string{"", "gold", "silver"}[r.IntN(3)]
	if r.IntN(3) == 0 {
		pod.Spec.ActiveDeadlineSeconds = new(int64(60))
	}
	if r.IntN(4) == 0 {
		of := &pod.Spec.Containers[0].Resources
		of.Requests = quota.Add(of.Requests, corev1.ResourceList{"example.com/gpu": resource.MustParse("1")})
		of.Limits = quota.Add(of.Limits, corev1.ResourceList{"ephemeral-storage": resource.MustParse("1")})
	}
	if r.IntN(5) == 0 {
		pod.Spec.Resources = &corev1.ResourceRequirements{Requests: randomResources(r, 2)}
	}
	if r.IntN(5) == 0 {
		term := corev1.PodAffinityTerm{TopologyKey: "zone", Namespaces: []string{"other"}}
		pod.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
			PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: 1, PodAffinityTerm: term}},
		}}
	}
	if there {
		pod.Status.Phase = []corev1.PodPhase{"Pending", "Running", "Running", "Succeeded", "Failed"}[r.IntN(5)]
		if r.IntN(3) == 0 {
			pod.DeletionTimestamp = &metav1.Time{Time: noon.Add(time.Duration(r.IntN(5)-3)*time.Minute - 30*time.Second)}
			pod.DeletionGracePeriodSeconds = new(int64(60))
		}
	}
	return pod
}

func randomClaim(r *rand.Rand, name string) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
	size := func() corev1.ResourceList {
		return corev1.ResourceList{"storage": resource.MustParse([]string{"512Mi", "1Gi", "3Gi", "1500m"}[r.IntN(4)])}
	}
	switch r.IntN(3) {
	case 0:
		c.Spec.StorageClassName = new("gold")
	case 1:
		c.Annotations = map[string]string{corev1.BetaStorageClassAnnotation: "gold"}
	}
	if r.IntN(5) > 0 {
		c.Spec.Resources.Requests = size()
	}
	if r.IntN(3) == 0 {
		c.Status.AllocatedResources = size()
	}
	return c
}

func randomService(r *rand.Rand, name string) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
	s.Spec.Type = []corev1.ServiceType{"ClusterIP", "NodePort", "LoadBalancer"}[r.IntN(3)]
	for n := range 1 + r.IntN(3) {
		p := corev1.ServicePort{Name: fmt.Sprint("p", n), Port: int32(80 + n)}
		if r.IntN(2) == 0 {
			p.NodePort = int32(30000 + n)
		}
		s.Spec.Ports = append(s.Spec.Ports, p)
	}
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer && r.IntN(2) == 0 {
		s.Spec.AllocateLoadBalancerNodePorts = new(false)
	}
	legacyscheme.Scheme.Default(s)
	return s
}
