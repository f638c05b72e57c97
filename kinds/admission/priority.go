package admission

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	upstream "k8s.io/kubernetes/pkg/apis/scheduling/v1"

	"lockstep/kinds"
)

// SystemClasses returns the PriorityClasses that every cluster has, as they are stored.
func SystemClasses() []*schedulingv1.PriorityClass {
	classes := upstream.SystemPriorityClasses()
	for _, c := range classes {
		policy := corev1.PreemptLowerPriority
		c.PreemptionPolicy = &policy
	}
	return classes
}

// SystemClass says that every cluster has a PriorityClass of that name.
func SystemClass(name string) bool {
	return slices.Contains(upstream.SystemPriorityClassNames(), name)
}

// DefaultClass returns the PriorityClass of pods that name none, or nil: of several that say so the lowest, as Kubernetes has it.
func DefaultClass(in Cluster) *schedulingv1.PriorityClass {
	var lowest *schedulingv1.PriorityClass
	for o := range in.List(kinds.For[*schedulingv1.PriorityClass]().GroupResource(), "") {
		c := o.(*schedulingv1.PriorityClass)
		if c.GlobalDefault && (lowest == nil || c.Value < lowest.Value || c.Value == lowest.Value && c.Name < lowest.Name) {
			lowest = c
		}
	}
	return lowest
}

// class returns the PriorityClass of that name, or nil. Those of the system need not be there yet.
func class(name string, in Cluster) *schedulingv1.PriorityClass {
	if SystemClass(name) {
		system := SystemClasses()
		return system[slices.IndexFunc(system, func(c *schedulingv1.PriorityClass) bool { return c.Name == name })]
	}
	c, _ := in.Get(kinds.For[*schedulingv1.PriorityClass]().Key("", name)).(*schedulingv1.PriorityClass)
	return c
}

// prioritize gives a pod the priority and the preemption policy of its class, as Kubernetes' plugin Priority does.
func prioritize(spec *corev1.PodSpec, in Cluster) *field.Error {
	at := field.NewPath("spec")
	priority, policy := int32(0), corev1.PreemptLowerPriority
	of := DefaultClass(in)
	if name := spec.PriorityClassName; name != "" {
		if of = class(name, in); of == nil {
			return field.Forbidden(at.Child("priorityClassName"), fmt.Sprintf("no PriorityClass with name %s was found", name))
		}
	}
	if of != nil {
		spec.PriorityClassName, priority = of.Name, of.Value
		if of.PreemptionPolicy != nil {
			policy = *of.PreemptionPolicy
		}
	}
	if spec.Priority != nil && *spec.Priority != priority {
		return field.Forbidden(at.Child("priority"), fmt.Sprintf("the integer value of priority (%d) must not be provided in pod spec; "+
			"priority admission controller computed %d from the given PriorityClass name", *spec.Priority, priority))
	}
	if spec.PreemptionPolicy != nil && *spec.PreemptionPolicy != policy {
		return field.Forbidden(at.Child("preemptionPolicy"), fmt.Sprintf("the string value of PreemptionPolicy (%s) must not be "+
			"provided in pod spec; priority admission controller computed %s from the given PriorityClass name",
			*spec.PreemptionPolicy, policy))
	}
	spec.Priority, spec.PreemptionPolicy = &priority, &policy
	return nil
}
