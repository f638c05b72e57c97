package api

import (
	"reflect"

	"lockstep/daemon/store/view"
	"lockstep/kinds"
	"lockstep/kinds/v1alpha1"
)

// present copies an object's outermost struct, so that the caller may set its kind, revision and annotations, and adds
// where it comes from. Everything further in is still shared.
func (h *hub) present(v *view.View, o kinds.Object) kinds.Object {
	shallow := reflect.New(reflect.TypeOf(o).Elem())
	shallow.Elem().Set(reflect.ValueOf(o).Elem())
	out := shallow.Interface().(kinds.Object)
	if origin, ok := h.origins.Of(v, o); ok {
		out.SetAnnotations(origin.Annotate(o.GetAnnotations()))
	}
	if source, ok := out.(*v1alpha1.Source); ok {
		source.Spec.URL = withoutUser(source.Spec.URL) // it may hold a password
	}
	return out
}
