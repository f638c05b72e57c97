package admission

import (
	networkingv1 "k8s.io/api/networking/v1"

	"lockstep/kinds"
	"lockstep/kinds/ingress"
)

// IngressClasses are those of a cluster.
func IngressClasses(in Cluster) ingress.Classes {
	out := ingress.Classes{}
	for o := range in.List(kinds.For[*networkingv1.IngressClass]().GroupResource(), "") {
		out[o.GetName()] = o.(*networkingv1.IngressClass)
	}
	return out
}

// nameClass gives an Ingress that names no class the default one, as Kubernetes' plugin DefaultIngressClass does.
func nameClass(i *networkingv1.Ingress, in Cluster) {
	if _, annotated := i.Annotations[ingress.ClassAnnotation]; annotated || i.Spec.IngressClassName != nil {
		return
	}
	if c := ingress.Default(IngressClasses(in)); c != nil {
		i.Spec.IngressClassName = &c.Name
	}
}
