package kinds

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Controller is what a kind's controller does to objects that a manifest may state, too.
type Controller struct {
	// Of is the kind whose objects it works for: the row's own, or one whose objects control the row's.
	Of schema.GroupVersionKind
	// Annotations begin the names of those that are the controller's own.
	Annotations string
	// Fields of the specification are the controller's in what it controls: a manifest gives them their first value.
	Fields []string
	// Copies says that it keeps the controlling object's annotations in what it controls.
	Copies bool
	// Removes says which of the objects that Selects matches it removes whenever they are there.
	Removes Removal
	// Selects returns by which labels an object of kind Of claims others; nil for a controller that removes none.
	Selects func(Object) *metav1.LabelSelector
	// Named says whether an object of kind Of claims one of another's name; nil: whatever it is called.
	Named func(owner, o Object) bool
}

// Removal says what a controller removes.
type Removal int8

// The removals.
const (
	// RemovesNone is for a controller that removes nothing by itself.
	RemovesNone Removal = iota
	// RemovesAny: whatever it has not made, in the end.
	RemovesAny
	// RemovesSurplus: what is there beyond the number that is wanted, which the scale of Of tells.
	RemovesSurplus
)

// Uncontrolled are no controllers.
func Uncontrolled() []Controller { return []Controller{} }

// Selects says whether a controller with that selector claims an object: none does with a selector that is empty, missing
// or cannot be read.
func Selects(s *metav1.LabelSelector, o metav1.Object) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && !selector.Empty() && selector.Matches(labels.Set(o.GetLabels()))
}
