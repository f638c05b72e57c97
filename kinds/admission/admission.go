// Package admission decides by the cluster's objects whether a new object may be, and what it gets of them, as Kubernetes'
// admission plugins do.
package admission

import (
	"iter"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"lockstep/kinds"
)

// Cluster is where the objects are that admission asks for; a view is one. What it returns is shared.
type Cluster interface {
	Get(kinds.Key) kinds.Object // nil: there is none
	// List yields those of a kind in a namespace; empty: in all.
	List(of schema.GroupResource, namespace string) iter.Seq[kinds.Object]
}

// Admit admits a new object, which is defaulted, in place: a pod gets the priority of its class, its service account's token and
// pull secrets, and the resources that its namespace's LimitRanges have for what it does not state. Its account has to be there, and
// it has to be within these, and to keep to the Pod Security Standards of its namespace. A claim gets the default StorageClass where it
// says nothing of one, and has to be within the LimitRanges, too. An Ingress gets the default IngressClass where it names none. The
// error says which field is refused and why, in the words of Kubernetes' plugins; the object is then of no use. Admitting twice changes
// nothing.
func Admit(o kinds.Object, in Cluster) *field.Error {
	switch o := o.(type) {
	case *corev1.Pod:
		return admitPod(o, in)
	case *corev1.PersistentVolumeClaim:
		classify(o, in)
		return claimWithinLimits(o, limitRanges(o.Namespace, in))
	case *networkingv1.Ingress:
		nameClass(o, in)
	}
	return nil
}

func admitPod(pod *corev1.Pod, in Cluster) *field.Error {
	ranges := limitRanges(pod.Namespace, in)
	giveDefaults(pod, ranges)
	if err := serve(pod, in); err != nil {
		return err
	}
	if err := run(&pod.Spec, in); err != nil {
		return err
	}
	if err := prioritize(&pod.Spec, in); err != nil {
		return err
	}
	if err := withinLimits(pod, ranges); err != nil {
		return err
	}
	return secure(pod, in)
}
