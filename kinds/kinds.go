// Package kinds is the table of every kind of object the cluster serves: its names, its scope, its Go type.
package kinds

import (
	"fmt"
	"reflect"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

	"lockstep/kinds/v1alpha1"
)

// Object is any API object. Objects that come from the store or a view are shared: never change one, copy it first.
type Object interface {
	metav1.Object
	runtime.Object
}

// Kind is one row of the table.
type Kind struct {
	schema.GroupVersionKind
	// Resource is the plural, lower-case name in URLs and keys ("replicasets").
	Resource   string
	Singular   string
	ShortNames []string
	Categories []string
	Namespaced bool
	// Declarable kinds may stand in a manifest; the others are made by the cluster itself.
	Declarable bool
	// Status says that the kind has a status subresource.
	Status bool

	object reflect.Type
	list   reflect.Type
}

// New returns a new, empty object of the kind.
func (k *Kind) New() Object { return reflect.New(k.object).Interface().(Object) }

// NewList returns a new, empty list of the kind.
func (k *Kind) NewList() runtime.Object { return reflect.New(k.list).Interface().(runtime.Object) }

// GroupResource is how keys and views name the kind.
func (k *Kind) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: k.Group, Resource: k.Resource}
}

// GroupVersionResource is how URLs name the kind.
func (k *Kind) GroupVersionResource() schema.GroupVersionResource {
	return k.GroupVersion().WithResource(k.Resource)
}

// Key returns the key of the object of this kind with that namespace (empty for cluster-scoped kinds) and name.
func (k *Kind) Key(namespace, name string) Key {
	return Key{Group: k.Group, Resource: k.Resource, Namespace: namespace, Name: name}
}

// Scheme knows every served type, and the meta types (ListOptions, Status, WatchEvent, Table).
var Scheme = func() *runtime.Scheme {
	s := runtime.NewScheme()
	utilruntime.Must(corev1.AddToScheme(s))
	utilruntime.Must(appsv1.AddToScheme(s))
	utilruntime.Must(discoveryv1.AddToScheme(s))
	utilruntime.Must(coordinationv1.AddToScheme(s))
	utilruntime.Must(v1alpha1.AddToScheme(s))
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	return s
}()

// All is the table, in the order in which a revision's objects are created: what others refer to comes first.
var All = []*Kind{
	row[v1alpha1.Source, v1alpha1.SourceList](v1alpha1.GroupVersion, "Source", "sources", "", scopeCluster|status),
	row[corev1.Namespace, corev1.NamespaceList](corev1.SchemeGroupVersion, "Namespace", "namespaces", "ns", scopeCluster|declarable|status),
	row[corev1.Node, corev1.NodeList](corev1.SchemeGroupVersion, "Node", "nodes", "no", scopeCluster|status),
	row[coordinationv1.Lease, coordinationv1.LeaseList](coordinationv1.SchemeGroupVersion, "Lease", "leases", "", 0),
	row[corev1.ServiceAccount, corev1.ServiceAccountList](corev1.SchemeGroupVersion, "ServiceAccount", "serviceaccounts", "sa", declarable),
	row[corev1.Secret, corev1.SecretList](corev1.SchemeGroupVersion, "Secret", "secrets", "", declarable),
	row[corev1.ConfigMap, corev1.ConfigMapList](corev1.SchemeGroupVersion, "ConfigMap", "configmaps", "cm", declarable),
	row[corev1.Service, corev1.ServiceList](corev1.SchemeGroupVersion, "Service", "services", "svc", declarable|status|categoryAll),
	row[appsv1.Deployment, appsv1.DeploymentList](appsv1.SchemeGroupVersion, "Deployment", "deployments", "deploy", declarable|status|categoryAll),
	row[appsv1.ReplicaSet, appsv1.ReplicaSetList](appsv1.SchemeGroupVersion, "ReplicaSet", "replicasets", "rs", declarable|status|categoryAll),
	row[corev1.PodTemplate, corev1.PodTemplateList](corev1.SchemeGroupVersion, "PodTemplate", "podtemplates", "", declarable),
	row[corev1.Pod, corev1.PodList](corev1.SchemeGroupVersion, "Pod", "pods", "po", declarable|status|categoryAll),
	row[corev1.Endpoints, corev1.EndpointsList](corev1.SchemeGroupVersion, "Endpoints", "endpoints", "ep", 0),
	row[discoveryv1.EndpointSlice, discoveryv1.EndpointSliceList](discoveryv1.SchemeGroupVersion, "EndpointSlice", "endpointslices", "", declarable),
	row[corev1.Event, corev1.EventList](corev1.SchemeGroupVersion, "Event", "events", "ev", 0),
}

type trait int

const (
	scopeCluster trait = 1 << iota
	declarable
	status
	categoryAll
)

func row[O, L any](gv schema.GroupVersion, kind, resource, short string, t trait) *Kind {
	k := &Kind{
		GroupVersionKind: gv.WithKind(kind),
		Resource:         resource,
		Singular:         strings.ToLower(kind),
		Namespaced:       t&scopeCluster == 0,
		Declarable:       t&declarable != 0,
		Status:           t&status != 0,
		object:           reflect.TypeFor[O](),
		list:             reflect.TypeFor[L](),
	}
	if short != "" {
		k.ShortNames = []string{short}
	}
	if t&categoryAll != 0 {
		k.Categories = []string{"all"}
	}
	return k
}

var (
	byGVK      = map[schema.GroupVersionKind]*Kind{}
	byResource = map[schema.GroupResource]*Kind{}
	byType     = map[reflect.Type]*Kind{}
)

func init() {
	for _, k := range All {
		byGVK[k.GroupVersionKind] = k
		byResource[k.GroupResource()] = k
		byType[k.object] = k
	}
}

// ForGVK returns the kind with that group, version and kind, or nil.
func ForGVK(gvk schema.GroupVersionKind) *Kind { return byGVK[gvk] }

// ForResource returns the kind with that group and resource, or nil.
func ForResource(gr schema.GroupResource) *Kind { return byResource[gr] }

// Of returns the kind of an object by its Go type; it panics for a type that is not in the table.
func Of(o Object) *Kind { return ofType(reflect.TypeOf(o).Elem()) }

// For returns the kind whose Go type is T, a pointer such as *corev1.Pod; it panics for a type that is not in the table.
func For[T Object]() *Kind { return ofType(reflect.TypeFor[T]().Elem()) }

func ofType(t reflect.Type) *Kind {
	k := byType[t]
	if k == nil {
		panic(fmt.Sprintf("kinds: %v is not in the table", t))
	}
	return k
}
