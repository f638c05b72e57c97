package watch

import (
	"fmt"
	"iter"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"lockstep/kinds"
	"lockstep/kinds/strategy"
	"lockstep/store/view"
)

// Filter says which objects of a kind a read is about.
type Filter struct {
	kind      *kinds.Kind
	namespace string // empty: all
	name      string // empty: all
	node      string // of pods; empty: all
	labels    labels.Selector
	fields    fields.Selector
	lean      bool // of nodes: see lean
}

// Lean has a read of nodes show, of every node, what the others need of it; other kinds it shows whole.
func (f *Filter) Lean() { f.lean = f.kind.Group == "" && f.kind.Resource == "nodes" }

// Shown is an object as the read shows it.
func (f *Filter) Shown(o kinds.Object) kinds.Object {
	if f.lean {
		return lean(o)
	}
	return o
}

// NewFilter reads a request's selectors. Terms that an index or a key answers are taken out of the field selector.
func NewFilter(k *kinds.Kind, namespace string, opts *metainternalversion.ListOptions) (Filter, error) {
	f := Filter{kind: k, namespace: namespace, labels: labels.Everything(), fields: fields.Everything()}
	if opts == nil {
		return f, nil
	}
	if opts.LabelSelector != nil {
		f.labels = opts.LabelSelector
	}
	if opts.FieldSelector == nil {
		return f, nil
	}
	selector, err := opts.FieldSelector.Transform(func(label, value string) (string, string, error) {
		return strategy.FieldSelector(k, label, value)
	})
	if err != nil {
		return f, apierrors.NewBadRequest(err.Error())
	}
	f.fields = selector
	f.name = f.take("metadata.name")
	if k.Namespaced && f.namespace == "" {
		f.namespace = f.take("metadata.namespace")
	}
	if k.Group == "" && k.Resource == "pods" {
		f.node = f.take("spec.nodeName")
	}
	return f, nil
}

// Unread returns Kubernetes' answer where an object that the read may be about is stored and cannot be read, and nothing is known of
// it: to leave it out would say that it is gone.
func (f *Filter) Unread(v *view.View) error {
	for k, why := range v.AllUnreadable() {
		if k.GroupResource() == f.kind.GroupResource() && (f.namespace == "" || f.namespace == k.Namespace) &&
			(f.name == "" || f.name == k.Name) && v.Get(k) == nil {
			return apierrors.NewInternalError(fmt.Errorf("%v is stored and cannot be read: %s", k, why))
		}
	}
	return nil
}

// take removes an equality from the field selector and returns its value.
func (f *Filter) take(field string) string {
	value, ok := f.fields.RequiresExactMatch(field)
	if !ok || value == "" {
		return ""
	}
	rest := fields.Everything()
	for _, r := range f.fields.Requirements() {
		if r.Field != field || r.Value != value || string(r.Operator) == "!=" {
			term, err := fields.ParseSelector(r.Field + string(r.Operator) + fields.EscapeValue(r.Value))
			if err != nil {
				return ""
			}
			rest = fields.AndSelectors(rest, term)
		}
	}
	f.fields = rest
	return value
}

// Whole says that nothing is selected by labels, nor by fields that no index or key answers.
func (f *Filter) Whole() bool { return f.labels.Empty() && f.fields.Empty() }

// matches says whether an object of the kind is among those the read is about.
func (f *Filter) matches(o kinds.Object) bool {
	switch {
	case f.namespace != "" && o.GetNamespace() != f.namespace,
		f.name != "" && o.GetName() != f.name,
		f.node != "" && kinds.NodeOf(o) != f.node,
		!f.labels.Empty() && !f.labels.Matches(labels.Set(o.GetLabels())):
		return false
	}
	return f.fields.Empty() || f.fields.Matches(strategy.SelectableFields(o))
}

// sees says how an event changes what the read is about: whether its object was and whether it is among it.
func (f *Filter) sees(e *event) (was, is bool) {
	if f.node != "" && !e.concerns(f.node) {
		return false, false
	}
	if f.lean && sameLean(e.old, e.new) {
		return false, false // it tells them nothing
	}
	return e.old != nil && f.matches(e.old), e.new != nil && f.matches(e.new)
}

// countOf counts the events that the read is about.
func (f *Filter) countOf(events []*event) int {
	n := 0
	for _, e := range events {
		if was, is := f.sees(e); was || is {
			n++
		}
	}
	return n
}

// Objects yields what matches, in ascending order of namespace and name.
func (f *Filter) Objects(v *view.View) iter.Seq[kinds.Object] {
	return func(yield func(kinds.Object) bool) {
		for o := range f.candidates(v) {
			if f.matches(o) && !yield(o) {
				return
			}
		}
	}
}

// candidates are the objects of the narrowest index.
func (f *Filter) candidates(v *view.View) iter.Seq[kinds.Object] {
	switch {
	case f.name != "" && (f.namespace != "" || !f.kind.Namespaced):
		return func(yield func(kinds.Object) bool) {
			if o := v.Get(f.kind.Key(f.namespace, f.name)); o != nil {
				yield(o)
			}
		}
	case f.node != "":
		return func(yield func(kinds.Object) bool) {
			for p := range v.PodsOnNode(f.node) {
				if !yield(p) {
					return
				}
			}
		}
	default:
		return v.List(f.kind.GroupResource(), f.namespace)
	}
}
