// Package loop is the vocabulary of control loops: what one declares about itself and what one decides.
package loop

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/kinds"
	"lockstep/store/view"
)

// Reconciler is one control loop. It holds no state: everything it knows comes in through Decide.
type Reconciler struct {
	// Name is one word, the name of the loop's package, in logs and metrics.
	Name string
	// Component is the reporting component of its events ("deployment-controller").
	Component string
	// Owner is the kind of object a key names. Nil with Single: the one key is ClusterKey. Nil without: keys name objects
	// of any kind and come from Reads alone.
	Owner *kinds.Kind
	// Single loops decide about the whole cluster at once, under ClusterKey.
	Single bool
	Reads  []Read
	Writes []Write
	// Records says that decisions look at records, too; a change of one wakes nothing.
	Records bool
	// Decide says what should be so for one key, from nothing but its arguments. It is called again whenever something
	// it declares to read has changed; it changes nothing that it was given. The view has the kinds of Sees alone: it panics
	// where it is asked for another. An error of Stall or WaitFor carries its own retry policy, any other is retried with
	// backoff.
	Decide func(v *view.View, key kinds.Key, now time.Time) (Decision, error)
}

// Sees are the kinds that a decision may look at: the owner's, and those that the loop declares to read or to write.
func (r Reconciler) Sees() view.Scope {
	scope := view.Scope{}
	if r.Owner != nil {
		scope[r.Owner] = true
	}
	for _, read := range r.Reads {
		scope[read.Kind] = true
	}
	for _, w := range r.Writes {
		scope[w.Kind] = true
	}
	if r.Records {
		scope[nil] = true
	}
	return scope
}

// Read declares a kind that a loop looks at.
type Read struct {
	Kind *kinds.Kind
	// How says in a few words how a change of such an object leads to a key, for the graph.
	How string
	// Keys yields the keys that a change of the object concerns; it is asked about the object before the change, and
	// after it. The view is the one after the change, as Decide sees it. Nil: the kind is looked at, but a change of it
	// wakes nothing.
	Keys func(v *view.View, o kinds.Object) []kinds.Key
	// Changed says whether an update matters; nil: every update does.
	Changed func(old, new kinds.Object) bool
}

// Write declares what a loop may do to objects of a kind.
type Write struct {
	Kind   *kinds.Kind
	Create bool
	Delete bool
	// Fields are the paths it may change in an object that exists: "spec.replicas", "metadata.ownerReferences",
	// "status". A path covers everything below it; a list is changed as a whole.
	Fields []string
	// Shared are those of Fields that another loop writes as well, by path, with why they do not undo each other's work.
	// Two loops write one field only where both say so.
	Shared map[string]string
	// Children says that the owner's controlled objects of this kind are its children: each decision names every one of
	// them, as wanted or as dropped.
	Children bool
	// Derived children may be left out of a decision: they are then deleted.
	Derived bool
}

// Decision is everything a loop asks for about one key. The zero value asks for nothing, which is right for an owner
// without children.
type Decision struct {
	// Wants are objects as they should be: the view's own object to keep a child as it is, a changed copy to update it,
	// an object without uid to create one (with a generateName, the engine finds the name, and the same object may be wanted
	// many times).
	Wants []Want
	Drops []Drop
	// Status is the owner with its new status (and annotations, as in Kubernetes' status updates). Nil: no change.
	Status kinds.Object
	// IfRefused gives the status to write in place of Status when an object in Wants was refused, for example by
	// validation; nil: Status is written all the same. It is as pure as Decide.
	IfRefused func(cause error) kinds.Object
	// Events are recorded about the owner, or about their own object, once the writes have been made.
	Events []Event
	// Again is when to decide again although nothing has changed; zero: never.
	Again time.Time
}

// Want is an object as it should be.
type Want struct {
	Object kinds.Object
	// Reason says why, in a few words without the object's name.
	Reason string
	// Done is recorded about the owner once the object is written; "{name}" in its message stands for the object's name.
	Done *Event
	// Failed is recorded about the owner when the write is refused; "{cause}" in its message stands for the cause.
	Failed *Event
}

// Drop is an object that should go: gracefully, as Kubernetes' delete call does it, unless Now is set.
type Drop struct {
	Key    kinds.Key
	UID    types.UID
	Reason string
	// Now deletes at once: a pod with grace period 0, a namespace although it was not finalized. Only an object with
	// metadata.finalizers stays until they are gone.
	Now bool
	// As is the object with what is to be written of it as it goes, in the same write, where it stays until its end; nil: nothing.
	As   kinds.Object
	Done *Event
}

// Event is a Kubernetes event about an object.
type Event struct {
	About   kinds.Object // nil: the owner
	Type    string       // corev1.EventTypeNormal or corev1.EventTypeWarning
	Reason  string
	Message string
}

// ClusterKey is the key of loops that decide about the whole cluster at once.
func ClusterKey() kinds.Key { return kinds.Key{Resource: "cluster", Name: "cluster"} }

// Keep wants objects of the view as they are.
func Keep[T kinds.Object](reason string, objects ...T) []Want {
	wants := make([]Want, len(objects))
	for i, o := range objects {
		wants[i] = Want{Object: o, Reason: reason}
	}
	return wants
}

// DropOf drops an object of the view.
func DropOf(o kinds.Object, reason string) Drop {
	return Drop{Key: kinds.KeyOf(o), UID: o.GetUID(), Reason: reason}
}

// Self maps an object to its own key.
func Self(_ *view.View, o kinds.Object) []kinds.Key { return []kinds.Key{kinds.KeyOf(o)} }

// NamespaceKeys maps an object of that name, of which every namespace has one, to its namespace.
func NamespaceKeys(name string) func(*view.View, kinds.Object) []kinds.Key {
	return func(_ *view.View, o kinds.Object) []kinds.Key {
		if o.GetName() != name {
			return nil
		}
		return []kinds.Key{kinds.For[*corev1.Namespace]().Key("", o.GetNamespace())}
	}
}

// Cluster maps every object to ClusterKey.
func Cluster(*view.View, kinds.Object) []kinds.Key { return []kinds.Key{ClusterKey()} }
