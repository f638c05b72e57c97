package strategy

import (
	"context"
	"reflect"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"lockstep/kinds"
	"lockstep/kinds/v1alpha1"
)

// sourceStrategy holds the rules of Source, the kind of our own.
type sourceStrategy struct{}

func (sourceStrategy) ObjectKinds(o runtime.Object) ([]schema.GroupVersionKind, bool, error) {
	return kinds.Scheme.ObjectKinds(o)
}
func (sourceStrategy) Recognizes(gvk schema.GroupVersionKind) bool {
	return kinds.Scheme.Recognizes(gvk)
}
func (sourceStrategy) GenerateName(base string) string               { return base }
func (sourceStrategy) NamespaceScoped() bool                         { return false }
func (sourceStrategy) AllowCreateOnUpdate(context.Context) bool      { return false }
func (sourceStrategy) AllowUnconditionalUpdate(context.Context) bool { return false }
func (sourceStrategy) Canonicalize(runtime.Object)                   {}

func (sourceStrategy) PrepareForCreate(_ context.Context, o runtime.Object) {
	s := o.(*v1alpha1.Source)
	s.Generation = 1
	s.Status = v1alpha1.SourceStatus{}
}

func (sourceStrategy) Validate(_ context.Context, o runtime.Object) field.ErrorList {
	return v1alpha1.ValidateSource(o.(*v1alpha1.Source))
}

func (sourceStrategy) PrepareForUpdate(_ context.Context, o, old runtime.Object) {
	s, was := o.(*v1alpha1.Source), old.(*v1alpha1.Source)
	s.Status = was.Status
	if !reflect.DeepEqual(s.Spec, was.Spec) {
		s.Generation = was.Generation + 1
	}
}

func (sourceStrategy) ValidateUpdate(_ context.Context, o, _ runtime.Object) field.ErrorList {
	return v1alpha1.ValidateSource(o.(*v1alpha1.Source))
}

func (sourceStrategy) WarningsOnCreate(context.Context, runtime.Object) []string        { return nil }
func (sourceStrategy) WarningsOnUpdate(_ context.Context, _, _ runtime.Object) []string { return nil }

// sourceStatusStrategy is for the writes of a source's status.
type sourceStatusStrategy struct{ sourceStrategy }

func (sourceStatusStrategy) PrepareForUpdate(_ context.Context, o, old runtime.Object) {
	o.(*v1alpha1.Source).Spec = old.(*v1alpha1.Source).Spec
}

func (sourceStatusStrategy) ValidateUpdate(context.Context, runtime.Object, runtime.Object) field.ErrorList {
	return nil
}

var sourceColumns = []metav1.TableColumnDefinition{
	{Name: "Name", Type: "string", Format: "name", Description: "Name of the source."},
	{Name: "State", Type: "string", Description: "Verdict on the newest revision."},
	{Name: "Revision", Type: "string", Description: "Newest revision seen."},
	{Name: "Healthy", Type: "string", Description: "Healthy objects of all objects of the accepted revision."},
	{Name: "Age", Type: "string", Description: "Time since the source was configured."},
	{Name: "From", Type: "string", Priority: 1, Description: "Repository or folder."},
	{Name: "Message", Type: "string", Priority: 1, Description: "The verdict in words."},
}
