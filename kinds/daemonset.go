package kinds

import (
	"fmt"
	"iter"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func daemonSetTemplate(o Object) *corev1.PodTemplateSpec { return &o.(*appsv1.DaemonSet).Spec.Template }

func daemonSetSelector(o Object) *metav1.LabelSelector { return o.(*appsv1.DaemonSet).Spec.Selector }

// daemonSetControllers counts templates in an annotation, as every write does.
func daemonSetControllers() []Controller {
	return []Controller{{Of: apps().WithKind("DaemonSet"), Annotations: appsv1.DeprecatedTemplateGeneration}}
}

// daemonSetHealth: each node that is to have a pod has an available one, of the newest template where the strategy brings it.
func daemonSetHealth(ds *appsv1.DaemonSet, see Sight) Health {
	s := ds.Status
	want := s.DesiredNumberScheduled
	count := ready(s.NumberReady, want)
	current := s.ObservedGeneration >= ds.Generation
	rolls := ds.Spec.UpdateStrategy.Type != appsv1.OnDeleteDaemonSetStrategyType
	updated := !rolls || s.UpdatedNumberScheduled >= want
	if current && updated && s.NumberAvailable >= want {
		return Health{State: Healthy}
	}
	h := worst(daemons(ds, rolls, see), see)
	if h.State == Failed {
		return h.failed(count)
	}
	cause := count
	switch {
	case s.ObservedGeneration == 0:
		cause = "not observed yet"
	case !current:
		// The counts are of what was stated before.
		cause = "change not observed yet, " + count
	case !updated:
		cause = fmt.Sprintf("%d/%d updated, %s", s.UpdatedNumberScheduled, want, count)
	}
	return h.progressing(cause)
}

// daemons are the pods of a daemon set, newest: those of its newest template alone, whose number they carry as a label.
func daemons(ds *appsv1.DaemonSet, newest bool, see Sight) iter.Seq[*corev1.Pod] {
	number := ds.Annotations[appsv1.DeprecatedTemplateGeneration]
	return func(yield func(*corev1.Pod) bool) {
		for p := range pods(see.Controlled(ds.UID)) {
			if newest && p.Labels["pod-template-generation"] != number {
				continue
			}
			if !yield(p) {
				return
			}
		}
	}
}
