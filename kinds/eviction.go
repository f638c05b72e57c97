package kinds

import (
	"iter"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/klog/v2"

	"lockstep/kinds/podstatus"
)

// The reasons of events about pods that leave their nodes.
const (
	// TaintEviction is Kubernetes' of a pod that a taint drives out.
	TaintEviction = "TaintManagerEviction"
	// Drained is of a pod whose node is drained.
	Drained = "Drained"
)

// Objects are all objects at one moment, as views and rules of health see them.
type Objects interface {
	Get(Key) Object
	List(of schema.GroupResource, namespace string) iter.Seq[Object]
}

// DrivesOut is the first taint of a node that a pod may not stay with at all; nil: there is none.
func DrivesOut(n *corev1.Node, p *corev1.Pod) *corev1.Taint {
	for i := range n.Spec.Taints {
		if t := &n.Spec.Taints[i]; t.Effect == corev1.TaintEffectNoExecute && toleration(p, t) == nil {
			return t
		}
	}
	return nil
}

// Tolerates is how long a pod stays with a taint that came just now; forever, where ok and forever; not at all, where not ok. As in
// Kubernetes the first of its tolerations that is about the taint says so, and what is not positive is no time at all.
func Tolerates(p *corev1.Pod, t *corev1.Taint) (d time.Duration, forever, ok bool) {
	by := toleration(p, t)
	switch {
	case by == nil:
		return 0, false, false
	case by.TolerationSeconds == nil:
		return 0, true, true
	}
	return max(Seconds(*by.TolerationSeconds), 0), false, true
}

// toleration is the pod's first that is about a taint; nil: there is none.
func toleration(p *corev1.Pod, t *corev1.Taint) *corev1.Toleration {
	for i := range p.Spec.Tolerations {
		if by := &p.Spec.Tolerations[i]; by.ToleratesTaint(klog.Logger{}, t, false) {
			return by
		}
	}
	return nil
}

// StaysOnDrain says that a pod is none of those that leave a node which is drained: a DaemonSet's, and one that has ended.
func StaysOnDrain(p *corev1.Pod) bool {
	ref := metav1.GetControllerOfNoCopy(p)
	return ref != nil && ref.Kind == "DaemonSet" || podstatus.Finished(&p.Status)
}

// ClaimsOnlyOn are the claims of a pod whose data are on one node alone, and that outlive the pod.
func ClaimsOnlyOn(p *corev1.Pod, node string, see Objects) (claims []string) {
	for i := range p.Spec.Volumes {
		source := p.Spec.Volumes[i].PersistentVolumeClaim
		if source == nil {
			continue
		}
		c, _ := see.Get(For[*corev1.PersistentVolumeClaim]().Key(p.Namespace, source.ClaimName)).(*corev1.PersistentVolumeClaim)
		if c == nil || c.Spec.VolumeName == "" {
			continue
		}
		pv, _ := see.Get(For[*corev1.PersistentVolume]().Key("", c.Spec.VolumeName)).(*corev1.PersistentVolume)
		if pv != nil && DataOnlyOn(pv, node, nodesOf(see)) && !slices.Contains(claims, c.Name) {
			claims = append(claims, c.Name)
		}
	}
	return claims
}

func nodesOf(see Objects) iter.Seq[*corev1.Node] {
	return func(yield func(*corev1.Node) bool) {
		for o := range see.List(schema.GroupResource{Resource: "nodes"}, "") {
			if !yield(o.(*corev1.Node)) {
				return
			}
		}
	}
}
