// Package view holds the in-memory database of all objects and hands out immutable pictures of it.
package view

import (
	"encoding/json"
	"iter"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/kinds"
)

// View is a consistent, immutable picture of every object and record at one revision. Everything it returns is shared
// and must not be changed. Every sequence is in ascending order of namespace and name. Any number of goroutines may use
// one View.
type View struct {
	picture
	rev   int64
	scope Scope
}

// Scope is a set of kinds; nil: all of them, and the records.
type Scope map[*kinds.Kind]bool

// Only returns the same picture of the kinds in scope alone. Asking it for another kind, or for a record, panics: who sees
// it has not declared that it looks there. Objects of other kinds that have an owner or a uid which is asked for are left out.
func (v *View) Only(scope Scope) *View { return &View{picture: v.picture, rev: v.rev, scope: scope} }

// see panics where the kind, or records for nil, are not in the view's scope.
func (v *View) see(kind *kinds.Kind) {
	if v.scope == nil || v.scope[kind] {
		return
	}
	what := "records"
	if kind != nil {
		what = kind.Kind
	}
	panic("view: not declared to be looked at: " + what)
}

// Record is a document of Lockstep's own that is not an API object: an inventory entry, a source's state, an outbox
// entry. Table and Name identify it; both are slash-free resp. slash-separated paths.
type Record struct {
	Table    string
	Name     string
	Data     json.RawMessage
	Revision int64 // etcd mod revision
	// Unreadable says why what is stored cannot be read; Data is nil then. Empty: it can.
	Unreadable string
}

// Change is one step of an object or a record: New nil means deleted, Old nil means created. Exactly one of the object
// pair and the record pair is set.
type Change struct {
	Key       kinds.Key
	Old, New  kinds.Object
	OldRecord *Record
	NewRecord *Record
	// Unreadable says why what is stored at Key cannot be read, though it is there; New is nil then, and the picture keeps what
	// it has at Key. Empty for every other change.
	Unreadable string
	// Revision is the etcd revision of the step. Zero only in views made without a store.
	Revision int64
}

// Revision is the store's revision the picture is of: every change up to it is in, none after it. Zero for an empty view.
func (v *View) Revision() int64 { return v.rev }

// Get returns the object, or nil if there is none.
func (v *View) Get(k kinds.Key) kinds.Object {
	kind := kinds.ForResource(k.GroupResource())
	if kind == nil {
		return nil
	}
	v.see(kind)
	return v.get(kind, k.Namespace, k.Name)
}

// Unreadable is why what is stored at a key cannot be read, though it is there; empty: it can, or there is nothing. Get then
// returns the last that could be read, or nil where this process has never read any: it is not gone.
func (v *View) Unreadable(k kinds.Key) string { return v.unreadable[k] }

// AllUnreadable yields the keys of the objects that are there and cannot be read, in order, with the reasons.
func (v *View) AllUnreadable() iter.Seq2[kinds.Key, string] {
	return func(yield func(kinds.Key, string) bool) {
		for _, k := range slices.SortedFunc(maps.Keys(v.unreadable), kinds.Key.Compare) {
			if !yield(k, v.unreadable[k]) {
				return
			}
		}
	}
}

func (v *View) get(kind *kinds.Kind, namespace, name string) kinds.Object {
	tree := v.objects[kind]
	if tree == nil {
		return nil
	}
	o, _ := tree.Get(object{namespace: namespace, name: name})
	return o.Object
}

// Get returns the object of type T with that namespace (empty for cluster-scoped kinds) and name.
func Get[T kinds.Object](v *View, namespace, name string) (T, bool) {
	kind := kinds.For[T]()
	v.see(kind)
	o, ok := v.get(kind, namespace, name).(T)
	return o, ok
}

// List yields the objects of a kind in a namespace, or in all of them for an empty namespace.
func (v *View) List(gr schema.GroupResource, namespace string) iter.Seq[kinds.Object] {
	kind := kinds.ForResource(gr)
	if kind != nil {
		v.see(kind)
	}
	tree := v.objects[kind]
	return func(yield func(kinds.Object) bool) {
		if tree == nil {
			return
		}
		tree.AscendGreaterOrEqual(object{namespace: namespace}, func(o object) bool {
			return (namespace == "" || o.namespace == namespace) && yield(o.Object)
		})
	}
}

// List yields the objects of type T in a namespace, or in all of them for an empty namespace.
func List[T kinds.Object](v *View, namespace string) iter.Seq[T] {
	return typed[T](v.List(kinds.For[T]().GroupResource(), namespace))
}

// PodsOnNode yields the pods whose spec.nodeName is node; the empty name yields the pods that are not bound.
func (v *View) PodsOnNode(node string) iter.Seq[*corev1.Pod] {
	v.see(kinds.For[*corev1.Pod]())
	return typed[*corev1.Pod](v.having(byRow+index(kinds.ByNode), node))
}

// Controlled yields the objects whose controller owner reference has that uid.
func (v *View) Controlled(uid types.UID) iter.Seq[kinds.Object] {
	return func(yield func(kinds.Object) bool) {
		for o := range v.having(byOwner, string(uid)) {
			if controllerOf(o) == uid && !yield(o) {
				return
			}
		}
	}
}

// Orphans yields the objects of a namespace that have no controller: what a claimant might adopt. It panics for a kind
// that is not adoptable, of which no claimant would ever find any.
func Orphans[T kinds.Object](v *View, namespace string) iter.Seq[T] {
	kind := kinds.For[T]()
	if kind.Adoptable != kinds.Yes {
		panic("view: " + kind.Kind + " is not adoptable")
	}
	v.see(kind)
	return typed[T](v.having(byOrphanage, orphanage(kind, namespace)))
}

// Dependents yields the objects that have an owner reference, controlling or not, with that uid.
func (v *View) Dependents(uid types.UID) iter.Seq[kinds.Object] {
	return v.having(byOwner, string(uid))
}

// SlicesOfService yields the endpoint slices labelled with that service's name, in its namespace.
func (v *View) SlicesOfService(namespace, service string) iter.Seq[*discoveryv1.EndpointSlice] {
	v.see(kinds.For[*discoveryv1.EndpointSlice]())
	return typed[*discoveryv1.EndpointSlice](v.having(byRow+index(kinds.ByService), namespace+"/"+service))
}

// ByUID returns the object with that uid, or nil.
func (v *View) ByUID(uid types.UID) kinds.Object {
	for o := range v.having(byUID, string(uid)) {
		return o
	}
	return nil
}

// Record returns the record, if there is one.
func (v *View) Record(table, name string) (Record, bool) {
	v.see(nil)
	if v.records == nil {
		return Record{}, false
	}
	r, ok := v.records.Get(&Record{Table: table, Name: name})
	if !ok {
		return Record{}, false
	}
	return *r, true
}

// Records yields the records of a table whose name starts with prefix, in order of their names.
func (v *View) Records(table, prefix string) iter.Seq[Record] {
	v.see(nil)
	return func(yield func(Record) bool) {
		if v.records == nil {
			return
		}
		v.records.AscendGreaterOrEqual(&Record{Table: table, Name: prefix}, func(r *Record) bool {
			return r.Table == table && strings.HasPrefix(r.Name, prefix) && yield(*r)
		})
	}
}

// AllRecords yields the records of all tables, in order of table and name.
func (v *View) AllRecords() iter.Seq[Record] {
	v.see(nil)
	return func(yield func(Record) bool) {
		if v.records == nil {
			return
		}
		v.records.Ascend(func(r *Record) bool { return yield(*r) })
	}
}

// Edition stands for the objects of a kind: it is the same in two views of a store, compared by ==, only where they are. It
// keeps these objects from being freed, and no others. A kind has the same one from one change of it to the next.
func (v *View) Edition(kind *kinds.Kind) any {
	v.see(kind)
	return v.objects[kind]
}

// Len counts the objects of a kind.
func (v *View) Len(gr schema.GroupResource) int {
	kind := kinds.ForResource(gr)
	if kind != nil {
		v.see(kind)
	}
	tree := v.objects[kind]
	if tree == nil {
		return 0
	}
	return tree.Len()
}

// having yields the objects, of the kinds in scope, that have a value in an index.
func (v *View) having(i index, value string) iter.Seq[kinds.Object] {
	return func(yield func(kinds.Object) bool) {
		if v.refs[i] == nil {
			return
		}
		v.refs[i].AscendGreaterOrEqual(ref{value: value}, func(r ref) bool {
			if r.value != value {
				return false
			}
			return v.scope != nil && !v.scope[r.kind] || yield(v.get(r.kind, r.namespace, r.name))
		})
	}
}

func typed[T kinds.Object](seq iter.Seq[kinds.Object]) iter.Seq[T] {
	return func(yield func(T) bool) {
		for o := range seq {
			if t, ok := o.(T); ok && !yield(t) {
				return
			}
		}
	}
}

// orphanage is the index value of an object of the kind without a controller.
func orphanage(kind *kinds.Kind, namespace string) string { return kind.Resource + "\x01" + namespace }

func controllerOf(o metav1.Object) types.UID {
	if ref := metav1.GetControllerOfNoCopy(o); ref != nil {
		return ref.UID
	}
	return ""
}
