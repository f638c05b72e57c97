package api

import (
	"context"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"

	"lockstep/kinds"
)

// scaleKind is the kind of a scale subresource, whatever the kind of the object is.
var scaleKind = autoscalingv1.SchemeGroupVersion.WithKind("Scale")

// scaleOf is the scale of an object of a kind that has one.
func scaleOf(o kinds.Object) *autoscalingv1.Scale {
	is := kinds.Of(o).Scale(o)
	scale := &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{
			Name: o.GetName(), Namespace: o.GetNamespace(), UID: o.GetUID(), ResourceVersion: o.GetResourceVersion(),
			CreationTimestamp: o.GetCreationTimestamp(),
		},
		Status: autoscalingv1.ScaleStatus{Replicas: is.Replicas, Selector: metav1.FormatLabelSelector(is.Selector)},
	}
	if is.Wanted != nil {
		scale.Spec.Replicas = *is.Wanted
	}
	return scale
}

// scales reads the scales of a kind's objects.
type scales struct{ objects *storage }

var _ rest.Getter = scales{}

// New implements rest.Storage.
func (scales) New() runtime.Object { return &autoscalingv1.Scale{} }

// Get implements rest.Getter.
func (s scales) Get(ctx context.Context, name string, opts *metav1.GetOptions) (runtime.Object, error) {
	o, err := s.objects.Get(ctx, name, opts)
	if err != nil {
		return nil, err
	}
	return scaleOf(o.(kinds.Object)), nil
}
