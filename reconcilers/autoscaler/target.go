package autoscaler

import (
	"errors"
	"fmt"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"lockstep/kinds"
	"lockstep/store/view"
)

// target is what an autoscaler sizes.
type target struct {
	object kinds.Object
	scale  *kinds.Scale
}

// find returns the target of an autoscaler, or why there is none, as Kubernetes' API server words it.
func find(v *view.View, h *autoscalingv2.HorizontalPodAutoscaler) (target, error) {
	key, ok := kinds.ScaleTarget(h)
	if !ok {
		gv, err := schema.ParseGroupVersion(h.Spec.ScaleTargetRef.APIVersion)
		if err != nil {
			return target{}, err
		}
		return target{}, fmt.Errorf("no matches for kind %q in group %q", h.Spec.ScaleTargetRef.Kind, gv.Group)
	}
	o := v.Get(key)
	if o == nil {
		return target{}, fmt.Errorf("%v %q not found", key.GroupResource(), key.Name)
	}
	return target{o, kinds.Of(o).Scale(o)}, nil
}

// selector is that of the target's pods; nil where it selects nothing.
func (t target) selector() (labels.Selector, error) {
	s, err := metav1.LabelSelectorAsSelector(t.scale.Selector)
	if err != nil || s.String() == "" {
		return nil, err
	}
	return s, nil
}

// selected are the pods of a namespace that a selector has, in order of their names.
func selected(v *view.View, namespace string, s labels.Selector) (list []*corev1.Pod) {
	for p := range view.List[*corev1.Pod](v, namespace) {
		if s.Matches(labels.Set(p.Labels)) {
			list = append(list, p)
		}
	}
	return list
}

// Pods are those of the autoscaler's target, which it wants to be measured.
func Pods(v *view.View, h *autoscalingv2.HorizontalPodAutoscaler) []*corev1.Pod {
	t, err := find(v, h)
	if err != nil {
		return nil
	}
	s, err := t.selector()
	if err != nil || s == nil {
		return nil
	}
	return selected(v, h.Namespace, s)
}

// pods are those of the target, which must be those of no other autoscaler's.
func (t *turn) pods() ([]*corev1.Pod, error) {
	refuse := func(event, condition, message, told string) error {
		t.warn(event, message)
		t.set(autoscalingv2.ScalingActive, corev1.ConditionFalse, condition, told)
		return errors.New(message)
	}
	s, err := t.target.selector()
	if err != nil {
		message := fmt.Sprintf("couldn't convert selector into a corresponding internal selector object: %v", err)
		return nil, refuse("InvalidSelector", "InvalidSelector", message, message)
	}
	if s == nil {
		return nil, refuse("SelectorRequired", "InvalidSelector", "selector is required", "the HPA target's scale is missing a selector")
	}
	list := selected(t.view, t.hpa.Namespace, s)
	if other := t.rival(list); other != "" {
		message := fmt.Sprintf("pods by selector %v are controlled by more than one HPA (e.g. [{%s %s} {%s %s}])", s,
			t.hpa.Name, t.hpa.Namespace, other, t.hpa.Namespace)
		return nil, refuse("AmbiguousSelector", "AmbiguousSelector", message, message)
	}
	return list, nil
}

// rival is another autoscaler whose target selects one of the pods; empty: none.
func (t *turn) rival(list []*corev1.Pod) string {
	for other := range view.List[*autoscalingv2.HorizontalPodAutoscaler](t.view, t.hpa.Namespace) {
		if other.Name == t.hpa.Name {
			continue
		}
		theirs, err := find(t.view, other)
		if err != nil {
			continue
		}
		s, err := theirs.selector()
		if err != nil || s == nil {
			continue
		}
		for _, p := range list {
			if s.Matches(labels.Set(p.Labels)) {
				return other.Name
			}
		}
	}
	return ""
}
