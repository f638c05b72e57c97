// Package ingress reads Ingresses: whose they are, what their annotations ask for, who of several has a host and path, and what is
// wrong with one.
package ingress

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

const (
	// Controller is the controller of the IngressClasses that Lockstep's nodes serve themselves.
	Controller = "lockstep.dev/ingress"
	// Class is the IngressClass of that controller which every cluster has.
	Class = "lockstep"
	// Nodes is the annotation of such an IngressClass that says by a label selector which nodes serve it; without it all do that serve
	// ingress at all.
	Nodes = "lockstep.dev/ingress-nodes"
	// NotServed is the annotation of an Ingress that says what of it is not served, and why.
	NotServed = "lockstep.dev/not-served"
	// ClassAnnotation named the class before there was a field for it (k8s.io/api/networking/v1beta1).
	ClassAnnotation = "kubernetes.io/ingress.class"
)

// Classes are IngressClasses by their names.
type Classes map[string]*networkingv1.IngressClass

// ClassesOf are some IngressClasses by their names.
func ClassesOf(all []*networkingv1.IngressClass) Classes {
	out := make(Classes, len(all))
	for _, c := range all {
		out[c.Name] = c
	}
	return out
}

// Named is the class that an Ingress names; empty: it names none.
func Named(i *networkingv1.Ingress) string {
	if i.Spec.IngressClassName != nil {
		return *i.Spec.IngressClassName
	}
	return i.Annotations[ClassAnnotation]
}

// Default is the class of Ingresses that name none, or nil: of several that say so the newest, of these the first by name, as
// Kubernetes has it.
func Default(all Classes) *networkingv1.IngressClass {
	var newest *networkingv1.IngressClass
	for _, c := range all {
		if c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] != "true" {
			continue
		}
		if newest == nil || newest.CreationTimestamp.Before(&c.CreationTimestamp) ||
			newest.CreationTimestamp.Equal(&c.CreationTimestamp) && c.Name < newest.Name {
			newest = c
		}
	}
	return newest
}

// Of is the class of an Ingress: the one that it names, else the default one. Nil: there is none.
func (all Classes) Of(i *networkingv1.Ingress) *networkingv1.IngressClass {
	if name := Named(i); name != "" {
		return all[name]
	}
	return Default(all)
}

// Ours says that Lockstep's nodes serve an Ingress.
func (all Classes) Ours(i *networkingv1.Ingress) bool { return Owned(all.Of(i)) }

// Owned says that a class is of Lockstep's controller; nil is of none.
func Owned(c *networkingv1.IngressClass) bool { return c != nil && c.Spec.Controller == Controller }

// NodesOf selects the nodes that serve a class.
func NodesOf(c *networkingv1.IngressClass) (labels.Selector, error) {
	text, ok := c.Annotations[Nodes]
	if !ok {
		return labels.Everything(), nil
	}
	return labels.Parse(text)
}

// Selects says that a node of those labels is to serve a class.
func Selects(c *networkingv1.IngressClass, node map[string]string) bool {
	s, err := NodesOf(c)
	return err == nil && s.Matches(labels.Set(node))
}

// Older orders Ingresses by who comes first where both want the same: the older, then the first by namespace and name.
func Older(a, b *networkingv1.Ingress) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// Sorted are Ingresses in the order of Older; all stays as it is.
func Sorted(all []*networkingv1.Ingress) []*networkingv1.Ingress {
	out := slices.Clone(all)
	slices.SortFunc(out, Older)
	return out
}

// Name is "namespace/name".
func Name(o metav1.Object) string { return o.GetNamespace() + "/" + o.GetName() }

// Secrets are the names of the Secrets that an Ingress has for TLS, each once.
func Secrets(i *networkingv1.Ingress) []string {
	var out []string
	for _, t := range i.Spec.TLS {
		if t.SecretName != "" && !slices.Contains(out, t.SecretName) {
			out = append(out, t.SecretName)
		}
	}
	return out
}

// Backends are what an Ingress sends requests to, each with the path of its field.
func Backends(i *networkingv1.Ingress) []Backend {
	var out []Backend
	if b := i.Spec.DefaultBackend; b != nil {
		out = append(out, Backend{b, "spec.defaultBackend"})
	}
	for r, rule := range i.Spec.Rules {
		if rule.HTTP == nil {
			continue
		}
		for p := range rule.HTTP.Paths {
			out = append(out, Backend{&rule.HTTP.Paths[p].Backend, pathOf(r, p) + ".backend"})
		}
	}
	return out
}

// Backend is what requests are sent to.
type Backend struct {
	*networkingv1.IngressBackend
	Field string
}

// Port is the port of a service that a backend names; nil: it has none such.
func Port(s *corev1.Service, p networkingv1.ServiceBackendPort) *corev1.ServicePort {
	for i := range s.Spec.Ports {
		port := &s.Spec.Ports[i]
		if p.Name != "" && port.Name == p.Name || p.Name == "" && port.Port == p.Number {
			return port
		}
	}
	return nil
}
