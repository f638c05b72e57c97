package engine

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"lockstep/kinds"
)

// refusals has the keys of which a write was refused last, by the namespace of that. They come back after a backoff; what may have
// lifted the refusal wakes them before. They are listed while they try again, so a change that comes meanwhile wakes them, too.
type refusals map[string]map[item]bool

// note takes down what became of a key: of which namespace a write was refused, if any. A key that makes objects makes them in
// one namespace.
func (r refusals) note(it item, namespace string) {
	if namespace != "" {
		if r[namespace] == nil {
			r[namespace] = map[item]bool{}
		}
		r[namespace][it] = true
		return
	}
	for of, items := range r {
		if delete(items, it); len(items) == 0 {
			delete(r, of)
		}
	}
}

// lifts returns the namespace in which a change of an object may allow what was refused: of a quota, or of what is used of it, of a
// LimitRange, or of the namespace's labels, by which Pod Security judges, or a service account that is made. Empty: none.
func lifts(old, new kinds.Object) string {
	switch o := old.(type) {
	case *corev1.ResourceQuota:
		n, there := new.(*corev1.ResourceQuota)
		if !there || !equality.Semantic.DeepEqual(o.Spec, n.Spec) || less(n.Status.Used, o.Status.Used) {
			return o.Namespace
		}
	case *corev1.LimitRange:
		return o.Namespace
	case *corev1.Namespace:
		if n, there := new.(*corev1.Namespace); there && !equality.Semantic.DeepEqual(o.Labels, n.Labels) {
			return o.Name
		}
	case nil:
		switch n := new.(type) {
		case *corev1.LimitRange: // the first one gives requests and limits that a quota wants
			return n.Namespace
		case *corev1.ServiceAccount:
			return n.Namespace
		}
	}
	return ""
}

// less says that less of something is used than was.
func less(used, was corev1.ResourceList) bool {
	for name, before := range was {
		if now, counted := used[name]; !counted || now.Cmp(before) < 0 {
			return true
		}
	}
	return false
}
