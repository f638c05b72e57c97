package plan

import (
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/kinds/admission"
	"lockstep/kinds/ingress"
	"lockstep/kinds/roles"
)

// doubts are about what the steps write and Kubernetes takes, though it hardly does what it is written for: bindings to roles that
// are not there, roles with names that are nearly ones, controllers that select as others do, quotas below what is there, autoscalers by
// what nobody measures.
func (d *decision) doubts(steps []Step, then *after) Problems {
	var out Problems
	same := selections{decision: d, steps: steps}
	for i := range steps {
		s := &steps[i]
		if s.Verb != Create && s.Verb != Update {
			continue
		}
		field, text := "", ""
		switch o := s.Object.(type) {
		case *rbacv1.RoleBinding:
			field, text = "roleRef", unbound(o.RoleRef, o.Namespace, then)
		case *rbacv1.ClusterRoleBinding:
			field, text = "roleRef", unbound(o.RoleRef, "", then)
		case *rbacv1.Role:
			field, text = "rules", misspelt(o.Rules)
		case *rbacv1.ClusterRole:
			field, text = "rules", misspelt(o.Rules)
		case *corev1.ResourceQuota:
			field, text = "spec.hard", admission.Over(o, d.in.View, d.in.Now)
		case *networkingv1.Ingress:
			field, text = "spec.ingressClassName", leftTo(o, then)
		case *autoscalingv2.HorizontalPodAutoscaler:
			field, text = "spec.metrics", unmeasured(o, then)
		case *corev1.Node:
			field, text = "metadata.annotations["+kinds.DrainNode+"]", drains(s.Live.(*corev1.Node), o, d.in.View)
		default:
			field, text = "spec.selector", same.rival(o)
		}
		if text != "" {
			out = append(out, Problem{Origin: s.Entry.Origin, Key: s.Key, Field: field, Message: field + ": " + text})
		}
	}
	return out
}

// leftTo says who serves an Ingress where Lockstep's nodes do not.
func leftTo(i *networkingv1.Ingress, in *after) string {
	name := ingress.Named(i)
	switch c := admission.IngressClasses(in).Of(i); {
	case ingress.Owned(c):
		return ""
	case c != nil:
		return fmt.Sprintf("is left to %s, the controller of IngressClass %s", c.Spec.Controller, c.Name)
	case name == "":
		return "is not stated, and there is no default IngressClass: nothing serves it until there is one"
	default:
		return fmt.Sprintf("IngressClass %s is not there, and is left to whoever serves that name; for Lockstep's own nodes to serve it, "+
			"state an IngressClass of that name with the controller %s", name, ingress.Controller)
	}
}

// unbound says that a role is not there.
func unbound(ref rbacv1.RoleRef, namespace string, then *after) string {
	key := kinds.For[*rbacv1.ClusterRole]().Key("", ref.Name)
	if ref.Kind == "Role" {
		key = kinds.For[*rbacv1.Role]().Key(namespace, ref.Name)
	}
	if roles.Default(key) || then.Get(key) != nil {
		return ""
	}
	return fmt.Sprintf("%v is not there, and nothing is granted until it is", key)
}

// selections are what controllers of pods select by, in the namespaces that were asked for.
type selections struct {
	*decision
	steps []Step
	known map[string]map[string][]kinds.Key // by namespace and selector
}

// rival names the first controller of pods that selects as another one does.
func (c *selections) rival(o kinds.Object) string {
	mine := selectorOf(o)
	if mine == "" {
		return ""
	}
	for _, other := range c.in(o.GetNamespace())[mine] {
		if other != kinds.KeyOf(o) {
			return fmt.Sprintf("%v has the same, and what selects by these labels, as autoscalers do, takes the pods of both", other)
		}
	}
	return ""
}

// in are the controllers of a namespace once the steps are carried out.
func (c *selections) in(namespace string) map[string][]kinds.Key {
	if known, ok := c.known[namespace]; ok {
		return known
	}
	all := map[string][]kinds.Key{}
	add := func(o kinds.Object) {
		if selector := selectorOf(o); selector != "" {
			all[selector] = append(all[selector], kinds.KeyOf(o))
		}
	}
	written := map[kinds.Key]bool{}
	for i := range c.steps {
		if s := &c.steps[i]; s.Key.Namespace == namespace && s.Verb != Keep {
			written[s.Key] = true
			if s.Object != nil && s.Verb != Prune {
				add(s.Object)
			}
		}
	}
	for _, k := range kinds.All {
		if !k.Namespaced || !selecting(k.New()) {
			continue
		}
		for o := range c.decision.in.View.List(k.GroupResource(), namespace) {
			if !written[kinds.KeyOf(o)] && o.GetDeletionTimestamp() == nil {
				add(o)
			}
		}
	}
	for _, keys := range all {
		slices.SortFunc(keys, compare)
	}
	if c.known == nil {
		c.known = map[string]map[string][]kinds.Key{}
	}
	c.known[namespace] = all
	return all
}

// selecting says that objects of this one's type select the pods that they make.
func selecting(o any) bool {
	_, daemons := o.(*appsv1.DaemonSet)
	kind, known := o.(kinds.Object)
	return daemons || known && kinds.Of(kind).Scalable()
}

// selectorOf is by which labels a controller selects pods, in Kubernetes' canonical words; empty where none does, or where another
// object's controller has made it.
func selectorOf(o kinds.Object) string {
	if !selecting(o) || metav1.GetControllerOfNoCopy(o) != nil {
		return ""
	}
	selector := (*metav1.LabelSelector)(nil)
	if daemons, ok := o.(*appsv1.DaemonSet); ok {
		selector = daemons.Spec.Selector
	} else {
		selector = kinds.Of(o).Scale(o).Selector
	}
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil || s.Empty() {
		return ""
	}
	return s.String()
}
