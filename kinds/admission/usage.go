package admission

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	podresources "k8s.io/component-helpers/resource"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper/qos"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
)

const (
	// countPrefix begins the names by which a quota counts the objects of a kind.
	countPrefix = "count/"
	// classSuffix ends the first part of the names by which it counts the claims of one storage class.
	classSuffix = ".storageclass.storage.k8s.io/"
)

// countName is the name by which a quota counts the objects of a kind.
func countName(of schema.GroupResource) corev1.ResourceName {
	return corev1.ResourceName(countPrefix + of.String())
}

// Countable says that quotas count the objects of a kind. Those of Events they do not, as in Kubernetes.
func Countable(k *kinds.Kind) bool { return k.Namespaced && k != kinds.For[*corev1.Event]() }

// Counted says that a quota's name counts something of the objects of a kind that is served.
func Counted(name corev1.ResourceName) bool {
	return slices.ContainsFunc(kinds.All, func(k *kinds.Kind) bool { return Counts(name, k) })
}

func ofClaims(name corev1.ResourceName) bool {
	of := string(name)
	if i := strings.LastIndex(of, classSuffix); i >= 0 {
		of = of[i+len(classSuffix):]
	}
	return of == string(corev1.ResourcePersistentVolumeClaims) || of == string(corev1.ResourceRequestsStorage)
}

// Counts says that a quota's name counts something of the objects of a kind.
func Counts(name corev1.ResourceName, of *kinds.Kind) bool {
	if !Countable(of) {
		return false
	}
	if name == countName(of.GroupResource()) {
		return true
	}
	switch of {
	case kinds.For[*corev1.Pod]():
		return ofPods(name)
	case kinds.For[*corev1.PersistentVolumeClaim]():
		return ofClaims(name)
	case kinds.For[*corev1.Service]():
		return name == corev1.ResourceServices || name == corev1.ResourceServicesNodePorts ||
			name == corev1.ResourceServicesLoadBalancers
	case kinds.For[*corev1.ConfigMap](), kinds.For[*corev1.ResourceQuota](), kinds.For[*corev1.ReplicationController](),
		kinds.For[*corev1.Secret]():
		return string(name) == of.Resource
	}
	return false
}

func ofPods(name corev1.ResourceName) bool {
	switch name {
	case corev1.ResourcePods,
		corev1.ResourceCPU, corev1.ResourceRequestsCPU, corev1.ResourceLimitsCPU,
		corev1.ResourceMemory, corev1.ResourceRequestsMemory, corev1.ResourceLimitsMemory,
		corev1.ResourceEphemeralStorage, corev1.ResourceRequestsEphemeralStorage, corev1.ResourceLimitsEphemeralStorage:
		return true
	}
	if strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) ||
		strings.HasPrefix(string(name), corev1.ResourceRequestsHugePagesPrefix) {
		return true
	}
	requested, ok := strings.CutPrefix(string(name), corev1.DefaultResourceRequestsPrefix)
	return ok && (!helper.IsNativeResource(name) || strings.HasPrefix(requested, resourcev1.ResourceDeviceClassPrefix))
}

// usage is what an object uses of what quotas count, at a time.
func usage(o kinds.Object, now time.Time) corev1.ResourceList {
	one := *resource.NewQuantity(1, resource.DecimalSI)
	k := kinds.Of(o)
	used := corev1.ResourceList{countName(k.GroupResource()): one}
	switch o := o.(type) {
	case *corev1.Pod:
		if !podEnded(o, now) {
			addPod(used, o)
		}
	case *corev1.Service:
		used[corev1.ResourceServices] = one
		addPorts(used, &o.Spec)
	case *corev1.PersistentVolumeClaim:
		addClaim(used, o)
	case *corev1.ConfigMap, *corev1.ResourceQuota, *corev1.ReplicationController, *corev1.Secret:
		used[corev1.ResourceName(k.Resource)] = one
	}
	return used
}

// podEnded says that a pod uses nothing any more, but is among the pods.
func podEnded(pod *corev1.Pod, now time.Time) bool {
	ends := podEnds(pod)
	return podstatus.Finished(&pod.Status) || !ends.IsZero() && !now.Before(ends)
}

// podEnds is when a pod that is being deleted no longer counts although it is still there, as on a node that is silent; zero:
// nobody deletes it.
func podEnds(pod *corev1.Pod) time.Time {
	if pod.DeletionTimestamp == nil || pod.DeletionGracePeriodSeconds == nil {
		return time.Time{}
	}
	return pod.DeletionTimestamp.Add(time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second)
}

func addPod(used corev1.ResourceList, pod *corev1.Pod) {
	options := podresources.PodResourcesOptions{UseStatusResources: true}
	addContainers(used, podresources.PodRequests(pod, options), podresources.PodLimits(pod, options))
}

// addContainers adds what containers request and are limited to, by the names that quotas have for it.
func addContainers(used, requests, limits corev1.ResourceList) {
	used[corev1.ResourcePods] = *resource.NewQuantity(1, resource.DecimalSI)
	for name, q := range requests {
		whole := name == corev1.ResourceCPU || name == corev1.ResourceMemory || name == corev1.ResourceEphemeralStorage ||
			strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
		if whole {
			used[name] = q
		}
		if whole || helper.IsExtendedResourceName(name) || strings.HasPrefix(string(name), resourcev1.ResourceDeviceClassPrefix) {
			used[corev1.DefaultResourceRequestsPrefix+name] = q
		}
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		if q, ok := limits[name]; ok {
			used["limits."+name] = q
		}
	}
}

func addPorts(used corev1.ResourceList, spec *corev1.ServiceSpec) {
	ports, balancers := 0, int64(0)
	switch spec.Type {
	case corev1.ServiceTypeNodePort:
		ports = len(spec.Ports)
	case corev1.ServiceTypeLoadBalancer:
		ports, balancers = len(spec.Ports), 1
		if allocate := spec.AllocateLoadBalancerNodePorts; allocate != nil && !*allocate {
			ports = 0
			for _, p := range spec.Ports {
				if p.NodePort != 0 {
					ports++
				}
			}
		}
	}
	used[corev1.ResourceServicesNodePorts] = *resource.NewQuantity(int64(ports), resource.DecimalSI)
	used[corev1.ResourceServicesLoadBalancers] = *resource.NewQuantity(balancers, resource.DecimalSI)
}

// inScopes says that an object is of all scopes of a quota. Only pods are of any.
func inScopes(q *corev1.ResourceQuota, o kinds.Object) bool {
	scopes := make([]corev1.ScopedResourceSelectorRequirement, 0, len(q.Spec.Scopes))
	for _, name := range q.Spec.Scopes {
		scopes = append(scopes, corev1.ScopedResourceSelectorRequirement{ScopeName: name, Operator: corev1.ScopeSelectorOpExists})
	}
	if q.Spec.ScopeSelector != nil {
		scopes = append(scopes, q.Spec.ScopeSelector.MatchExpressions...)
	}
	pod, ok := o.(*corev1.Pod)
	return len(scopes) == 0 ||
		ok && !slices.ContainsFunc(scopes, func(s corev1.ScopedResourceSelectorRequirement) bool { return !inScope(pod, s) })
}

func inScope(pod *corev1.Pod, scope corev1.ScopedResourceSelectorRequirement) bool {
	deadline := pod.Spec.ActiveDeadlineSeconds
	switch scope.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return deadline != nil && *deadline >= 0
	case corev1.ResourceQuotaScopeNotTerminating:
		return deadline == nil || *deadline < 0
	case corev1.ResourceQuotaScopeBestEffort:
		return qos.GetPodQOS(pod) == corev1.PodQOSBestEffort
	case corev1.ResourceQuotaScopeNotBestEffort:
		return qos.GetPodQOS(pod) != corev1.PodQOSBestEffort
	case corev1.ResourceQuotaScopePriorityClass:
		return ofClass(pod, scope)
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return looksAcross(pod.Spec.Affinity)
	}
	return false
}

func ofClass(pod *corev1.Pod, scope corev1.ScopedResourceSelectorRequirement) bool {
	class := labels.Set{}
	if pod.Spec.PriorityClassName != "" {
		class[string(scope.ScopeName)] = pod.Spec.PriorityClassName
	}
	selector, err := helper.ScopedResourceSelectorRequirementsAsSelector(scope)
	return err == nil && selector.Matches(class)
}

// looksAcross says that a pod has terms of affinity that look into other namespaces.
func looksAcross(a *corev1.Affinity) bool {
	if a == nil {
		return false
	}
	var terms []corev1.PodAffinityTerm
	weighted := func(list []corev1.WeightedPodAffinityTerm) {
		for _, w := range list {
			terms = append(terms, w.PodAffinityTerm)
		}
	}
	if a.PodAffinity != nil {
		terms = append(terms, a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution...)
		weighted(a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a.PodAntiAffinity != nil {
		terms = append(terms, a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution...)
		weighted(a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return slices.ContainsFunc(terms, func(t corev1.PodAffinityTerm) bool {
		return len(t.Namespaces) != 0 || t.NamespaceSelector != nil
	})
}
