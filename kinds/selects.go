package kinds

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Selects says whether a controller with that selector claims an object: none does with a selector that is empty, missing
// or cannot be read.
func Selects(s *metav1.LabelSelector, o metav1.Object) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && !selector.Empty() && selector.Matches(labels.Set(o.GetLabels()))
}
