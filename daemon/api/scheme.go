package api

import (
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	metricsinstall "k8s.io/metrics/pkg/apis/metrics/install"

	"lockstep/kinds"
	"lockstep/kinds/strategy"
)

// scheme has the table's groups, the reviews, scales, and what pods and nodes use.
var scheme = func() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		kinds.AddToScheme, authenticationv1.AddToScheme, authorizationv1.AddToScheme, autoscalingv1.AddToScheme,
		eventsv1.AddToScheme,
	} {
		utilruntime.Must(add(s))
	}
	metricsinstall.Install(s)
	return s
}()

var codecs = serializer.NewCodecFactory(scheme)

// convertor has nothing to convert but what pods and nodes use, since each other kind is served in one version, but knows the
// fields that selectors name.
type convertor struct{ runtime.ObjectConvertor }

// ConvertFieldLabel implements runtime.ObjectConvertor.
func (convertor) ConvertFieldLabel(gvk schema.GroupVersionKind, label, value string) (string, string, error) {
	k := kinds.ForGVK(gvk)
	if gvk.Group == eventsv1.GroupName {
		return strategy.ShownEventField(label, value)
	}
	if k == nil {
		return runtime.DefaultMetaV1FieldSelectorConversion(label, value)
	}
	return strategy.FieldSelector(k, label, value)
}
