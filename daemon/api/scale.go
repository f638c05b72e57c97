package api

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"

	"lockstep/kinds"
)

// scaleKind is the kind of a scale subresource, whatever the kind of the object is.
var scaleKind = autoscalingv1.SchemeGroupVersion.WithKind("Scale")

// scalable says whether objects of a kind have a scale.
func scalable(k *kinds.Kind) bool {
	_, ok := scaleOf(k.New())
	return ok
}

// scaleOf is how many pods an object asks for and has; false for an object that does not have any.
func scaleOf(o kinds.Object) (*autoscalingv1.Scale, bool) {
	var wanted *int32
	var is int32
	var selector *metav1.LabelSelector
	switch o := o.(type) {
	case *appsv1.Deployment:
		wanted, is, selector = o.Spec.Replicas, o.Status.Replicas, o.Spec.Selector
	case *appsv1.ReplicaSet:
		wanted, is, selector = o.Spec.Replicas, o.Status.Replicas, o.Spec.Selector
	default:
		return nil, false
	}
	scale := &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{
			Name: o.GetName(), Namespace: o.GetNamespace(), UID: o.GetUID(), ResourceVersion: o.GetResourceVersion(),
			CreationTimestamp: o.GetCreationTimestamp(),
		},
		Status: autoscalingv1.ScaleStatus{Replicas: is, Selector: metav1.FormatLabelSelector(selector)},
	}
	if wanted != nil {
		scale.Spec.Replicas = *wanted
	}
	return scale, true
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
	scale, ok := scaleOf(o.(kinds.Object))
	if !ok {
		return nil, fmt.Errorf("cannot tell the scale of a %T", o)
	}
	return scale, nil
}
