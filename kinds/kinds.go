// Package kinds is the table of every kind of object the cluster serves: its names, its scope, its Go type.
package kinds

import (
	"fmt"
	"reflect"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
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
	Columns

	install func(*runtime.Scheme) error // of the whole group
	object  reflect.Type
	list    reflect.Type
	status  []int // index of the field Status; nil where there is none
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

// Copy returns a copy of an object of the kind that shares what it points to.
func (k *Kind) Copy(o Object) Object {
	to := reflect.New(k.object)
	to.Elem().Set(reflect.ValueOf(o).Elem())
	return to.Interface().(Object)
}

// WithStatus returns a copy of an object of the kind, which has a status, with that of another one. It shares what
// metadata and spec point to with the first, what the status points to with the other.
func (k *Kind) WithStatus(o, of Object) Object {
	to := k.Copy(o)
	reflect.ValueOf(to).Elem().FieldByIndex(k.status).Set(reflect.ValueOf(of).Elem().FieldByIndex(k.status))
	return to
}

// AddToScheme registers every type of the table's groups, and the meta types (ListOptions, Status, WatchEvent, Table).
func AddToScheme(s *runtime.Scheme) error {
	for _, k := range All {
		if err := k.install(s); err != nil {
			return fmt.Errorf("cannot register group %q: %w", k.Group, err)
		}
	}
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	return nil
}

// All is the table, in the order in which a revision's objects are created: what others refer to comes first.
var All = table()

// Shown are the kinds as which the API shows objects of others, of the table, to those who know them so: events of events.k8s.io/v1.
// They are neither stored nor stated, and no object is Of one.
var Shown = shown()

// Served are the table's and the shown kinds.
func Served() []*Kind { return append(slices.Clone(All), Shown...) }

// Scheme knows what AddToScheme registers.
var Scheme = runtime.NewScheme()

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
	utilruntime.Must(AddToScheme(Scheme))
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
