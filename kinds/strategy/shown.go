package strategy

import (
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/events/install"
)

// ShownEvent returns an event as events.k8s.io/v1 has it, which says the same in other fields. It may share memory with e.
func ShownEvent(e *corev1.Event) *eventsv1.Event {
	out := &eventsv1.Event{}
	convertEvent(e, out)
	out.SetGroupVersionKind(eventsv1.SchemeGroupVersion.WithKind("Event"))
	return out
}

// StoredEvent is ShownEvent back.
func StoredEvent(e *eventsv1.Event) *corev1.Event {
	out := &corev1.Event{}
	convertEvent(e, out)
	out.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Event"))
	return out
}

func convertEvent(in, out runtime.Object) {
	internal := &core.Event{}
	err := legacyscheme.Scheme.Convert(in, internal, nil)
	if err == nil {
		err = legacyscheme.Scheme.Convert(internal, out, nil)
	}
	if err != nil {
		panic("strategy: the two forms of an event have the same in them: " + err.Error())
	}
}

// ShownEventField returns what a field that selects events of events.k8s.io/v1 is called in those of v1.
func ShownEventField(label, value string) (string, string, error) {
	return legacyscheme.Scheme.ConvertFieldLabel(eventsv1.SchemeGroupVersion.WithKind("Event"), label, value)
}
