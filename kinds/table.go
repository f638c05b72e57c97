package kinds

import (
	"reflect"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"lockstep/kinds/v1alpha1"
)

// Columns are what the rest of the program asks of a kind. A row states each of them: no answer is a mistake, which a test
// finds, so that a new kind is nowhere treated as if it were one of the old.
type Columns struct {
	Namespaced bool
	// Declarable kinds may stand in a manifest; the others are made by the cluster itself.
	Declarable bool
	// Status says that the kind has a status subresource.
	Status bool
	// Categories are names for several kinds together ("all").
	Categories []string
	// Adoptable: one without a controller is adopted by whoever selects it; the view finds these.
	Adoptable Answer
	// Generation: Kubernetes counts it, from 1 at creation.
	Generation Answer
	// StatusFollows: in protobuf the status is the last of three fields, after metadata and spec, and its defaults come of
	// nothing else. Most writes change nothing else, and an update whose first two are known is read from there.
	StatusFollows Answer
	// Expires: it goes by itself after a time, and nobody deletes it with its owner or namespace.
	Expires Answer
	// Indexes are those of the view that have its objects, beside uids and owners; None, where there are none.
	Indexes []Indexed
	// Health is when an object of the kind is healthy.
	Health Health
	// Pods returns what an object says of the pod that it is or the pods that it makes, and the path of that field; nil for
	// one of a kind that makes none.
	Pods func(Object) (spec *corev1.PodSpec, path string)
	// Controllers are those that write to objects of the kind what a manifest may state, too, or remove them; Uncontrolled, where
	// there are none.
	Controllers []Controller
	// Scale returns how many pods an object wants and has; nil for one of a kind that is not scaled.
	Scale func(Object) *Scale
}

// Scale is what the subresource scale tells.
type Scale struct {
	Wanted   *int32 // nil: not stated
	Replicas int32
	Selector *metav1.LabelSelector
}

// Health is a rule by which objects are judged, of which package sync/health has what it reads and what it says. The zero
// value is none.
type Health int8

// The rules.
const (
	// HealthyOnceThere is for what only states something: nothing can become of it, and nothing can go wrong.
	HealthyOnceThere Health = iota + 1
	// HealthyOnceRolledOut wants the newest template in all replicas, and these available.
	HealthyOnceRolledOut
	// HealthyOnceReplicated wants all replicas, and these available.
	HealthyOnceReplicated
	// HealthyOnceReady wants a pod that is ready or has succeeded.
	HealthyOnceReady
	// HealthyOnceReached wants one ready pod where there is any that is selected, and the rules of every node.
	HealthyOnceReached
)

// Answer is a yes or a no. The zero value is neither.
type Answer int8

// The answers.
const (
	Yes Answer = 1
	No  Answer = -1
)

// Index is one that a view keeps for the kinds that ask for it.
type Index int

// The indexes.
const (
	// ByNode has pods by the node they are bound to, and under the empty name those that are not bound.
	ByNode Index = iota
	// ByService has endpoint slices by namespace/name of the service that their label names.
	ByService
	// Indexes is how many there are.
	Indexes
)

// Indexed says under which value an index has an object; not ok: it has not.
type Indexed struct {
	Index
	Value func(Object) (value string, ok bool)
}

// None are no indexes.
func None() []Indexed { return []Indexed{} }

func by[T Object](index Index, value func(T) (string, bool)) []Indexed {
	return []Indexed{{index, func(o Object) (string, bool) { return value(o.(T)) }}}
}

func nodeOf(p *corev1.Pod) (string, bool) { return p.Spec.NodeName, true }

func serviceOf(s *discoveryv1.EndpointSlice) (string, bool) {
	name := s.Labels[discoveryv1.LabelServiceName]
	return s.Namespace + "/" + name, name != ""
}

func noPods(Object) (*corev1.PodSpec, string) { return nil, "" }

func itself(o Object) (*corev1.PodSpec, string) { return &o.(*corev1.Pod).Spec, "spec" }

func inTemplate(template func(Object) *corev1.PodTemplateSpec) func(Object) (*corev1.PodSpec, string) {
	return func(o Object) (*corev1.PodSpec, string) { return &template(o).Spec, "spec.template.spec" }
}

func deploymentTemplate(o Object) *corev1.PodTemplateSpec {
	return &o.(*appsv1.Deployment).Spec.Template
}

func replicaSetTemplate(o Object) *corev1.PodTemplateSpec {
	return &o.(*appsv1.ReplicaSet).Spec.Template
}

func noScale(Object) *Scale { return nil }

func deploymentScale(o Object) *Scale {
	d := o.(*appsv1.Deployment)
	return &Scale{d.Spec.Replicas, d.Status.Replicas, d.Spec.Selector}
}

func replicaSetScale(o Object) *Scale {
	rs := o.(*appsv1.ReplicaSet)
	return &Scale{rs.Spec.Replicas, rs.Status.Replicas, rs.Spec.Selector}
}

// group is a version of a group, with what registers all its types.
type group struct {
	schema.GroupVersion
	install func(*runtime.Scheme) error
}

var (
	core         = group{corev1.SchemeGroupVersion, corev1.AddToScheme}
	apps         = group{appsv1.SchemeGroupVersion, appsv1.AddToScheme}
	coordination = group{coordinationv1.SchemeGroupVersion, coordinationv1.AddToScheme}
	discovery    = group{discoveryv1.SchemeGroupVersion, discoveryv1.AddToScheme}
	lockstep     = group{v1alpha1.GroupVersion, v1alpha1.AddToScheme}
)

// All is the table, in the order in which a revision's objects are created: what others refer to comes first.
var All = []*Kind{
	row[v1alpha1.Source, v1alpha1.SourceList](lockstep, "sources", "", Columns{
		Status: true, Adoptable: No, Generation: Yes, StatusFollows: No, Expires: No, Indexes: None(),
		Health: HealthyOnceThere, Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
	}),
	row[corev1.Namespace, corev1.NamespaceList](core, "namespaces", "ns", Columns{
		Declarable: true, Status: true, Adoptable: No, Generation: No, StatusFollows: No, Expires: No, Indexes: None(),
		Health: HealthyOnceThere, Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
	}),
	row[corev1.Node, corev1.NodeList](core, "nodes", "no", Columns{
		Status: true, Adoptable: No, Generation: No, StatusFollows: No, Expires: No, Indexes: None(),
		Health: HealthyOnceThere, Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
	}),
	row[coordinationv1.Lease, coordinationv1.LeaseList](coordination, "leases", "", Columns{
		Namespaced: true, Adoptable: No, Generation: No, StatusFollows: No, Expires: No, Indexes: None(),
		Health: HealthyOnceThere, Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
	}),
	row[corev1.ServiceAccount, corev1.ServiceAccountList](core, "serviceaccounts", "sa", Columns{
		Namespaced: true, Declarable: true, Adoptable: No, Generation: No, StatusFollows: No, Expires: No, Indexes: None(),
		Health: HealthyOnceThere, Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
	}),
	row[corev1.Secret, corev1.SecretList](core, "secrets", "", Columns{
		Namespaced: true, Declarable: true, Adoptable: No, Generation: No, StatusFollows: No, Expires: No, Indexes: None(),
		Health: HealthyOnceThere, Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
	}),
	row[corev1.ConfigMap, corev1.ConfigMapList](core, "configmaps", "cm", Columns{
		Namespaced: true, Declarable: true, Adoptable: No, Generation: No, StatusFollows: No, Expires: No, Indexes: None(),
		Health: HealthyOnceThere, Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
	}),
	row[corev1.Service, corev1.ServiceList](core, "services", "svc", Columns{
		Namespaced: true, Declarable: true, Status: true, Categories: all(),
		Adoptable: No, Generation: No, StatusFollows: No, Expires: No, Indexes: None(),
		Health: HealthyOnceReached, Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
	}),
	row[appsv1.Deployment, appsv1.DeploymentList](apps, "deployments", "deploy", Columns{
		Namespaced: true, Declarable: true, Status: true, Categories: all(),
		Adoptable: No, Generation: Yes, StatusFollows: Yes, Expires: No, Indexes: None(),
		Health: HealthyOnceRolledOut, Pods: inTemplate(deploymentTemplate), Scale: deploymentScale,
		Controllers: deploymentControllers(),
	}),
	row[appsv1.ReplicaSet, appsv1.ReplicaSetList](apps, "replicasets", "rs", Columns{
		Namespaced: true, Declarable: true, Status: true, Categories: all(),
		Adoptable: Yes, Generation: Yes, StatusFollows: Yes, Expires: No, Indexes: None(),
		Health: HealthyOnceReplicated, Pods: inTemplate(replicaSetTemplate), Scale: replicaSetScale,
		Controllers: replicaSetControllers(),
	}),
	row[corev1.PodTemplate, corev1.PodTemplateList](core, "podtemplates", "", Columns{
		Namespaced: true, Declarable: true, Adoptable: No, Generation: No, StatusFollows: No, Expires: No, Indexes: None(),
		Health: HealthyOnceThere, Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
	}),
	row[corev1.Pod, corev1.PodList](core, "pods", "po", Columns{
		Namespaced: true, Declarable: true, Status: true, Categories: all(),
		Adoptable: Yes, Generation: Yes, StatusFollows: Yes, Expires: No, Indexes: by(ByNode, nodeOf),
		Health: HealthyOnceReady, Pods: itself, Scale: noScale, Controllers: podControllers(),
	}),
	row[corev1.Endpoints, corev1.EndpointsList](core, "endpoints", "ep", Columns{
		Namespaced: true, Adoptable: No, Generation: No, StatusFollows: No, Expires: No, Indexes: None(),
		Health: HealthyOnceThere, Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
	}),
	row[discoveryv1.EndpointSlice, discoveryv1.EndpointSliceList](discovery, "endpointslices", "", Columns{
		Namespaced: true, Declarable: true, Adoptable: No, Generation: Yes, StatusFollows: No, Expires: No,
		Indexes: by(ByService, serviceOf),
		Health:  HealthyOnceThere, Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
	}),
	row[corev1.Event, corev1.EventList](core, "events", "ev", Columns{
		Namespaced: true, Adoptable: No, Generation: No, StatusFollows: No, Expires: Yes, Indexes: None(),
		Health: HealthyOnceThere, Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
	}),
}

// all is the category that `kubectl get all` shows.
func all() []string { return []string{"all"} }

func row[O, L any](g group, resource, short string, c Columns) *Kind {
	object := reflect.TypeFor[O]()
	k := &Kind{
		GroupVersionKind: g.WithKind(object.Name()),
		Resource:         resource,
		Singular:         strings.ToLower(object.Name()),
		Columns:          c,
		install:          g.install,
		object:           object,
		list:             reflect.TypeFor[L](),
	}
	if short != "" {
		k.ShortNames = []string{short}
	}
	if f, ok := object.FieldByName("Status"); ok {
		k.status = f.Index
	}
	return k
}
