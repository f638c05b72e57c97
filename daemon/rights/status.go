package rights

import (
	"fmt"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"lockstep/kinds"
	"lockstep/kinds/admission"
	"lockstep/kinds/ingress"
	"lockstep/store/view"
)

// maxConditions bounds the conditions of an object that programs set: node-problem-detector, which has more than most, has a dozen.
const maxConditions = 32

// CheckProgramStatus: of an object's status a program sets, changes and takes back conditions that neither nodes nor the cluster set
// (see kinds.Columns), and of a Service of type LoadBalancer where it is reached. The rest is not its to say: what it leaves out of
// that stays, as do counts that it has as zero, for clients write those that they know nothing of.
func CheckProgramStatus(_ string, _ *view.View, new, old kinds.Object) error {
	keepMeta(new, old)
	k := kinds.Of(old)
	list, was := k.ConditionsOf(new), k.ConditionsOf(old)
	kept := owned(k, was)
	merged, theirs := slices.Clone(kept), 0
	for i := range list.Len() {
		c, at := list.Index(i), field.NewPath("status", "conditions").Index(i)
		if k.OwnsCondition(says(c, "Type")) {
			if !slices.ContainsFunc(kept, func(own reflect.Value) bool { return same(own, c) }) {
				return field.Forbidden(at, says(c, "Type")+" is for nodes or the cluster itself to tell")
			}
			continue
		}
		if err := checkCondition(c, at); err != nil {
			return err
		}
		if slices.ContainsFunc(merged, func(other reflect.Value) bool { return says(other, "Type") == says(c, "Type") }) {
			return field.Duplicate(at.Child("type"), says(c, "Type"))
		}
		if theirs++; theirs > maxConditions {
			return field.TooMany(field.NewPath("status", "conditions"), theirs, maxConditions)
		}
		merged = append(merged, c)
	}
	fill(list, merged)
	keepLeftOut(k, new, old)

	rest := new.DeepCopyObject().(kinds.Object)
	k.ConditionsOf(rest).Set(was)
	if s, ok := rest.(*corev1.Service); ok && s.Spec.Type == corev1.ServiceTypeLoadBalancer {
		s.Status.LoadBalancer = old.(*corev1.Service).Status.LoadBalancer
	}
	if !equality.Semantic.DeepEqual(k.StatusOf(rest), k.StatusOf(old)) {
		may := "conditions that neither nodes nor the cluster set"
		if k.Kind == "Service" {
			may += ", and of a Service of type LoadBalancer its loadBalancer"
		}
		return field.Forbidden(field.NewPath("status"), "a program may set only "+may)
	}
	return nil
}

// CheckProgramIngressStatus: a program tells where an Ingress is reached that Lockstep's nodes do not serve.
func CheckProgramIngressStatus(_ string, v *view.View, new, old kinds.Object) error {
	keepMeta(new, old)
	was, is := old.(*networkingv1.Ingress), new.(*networkingv1.Ingress)
	if class := admission.IngressClasses(v).Of(was); ingress.Owned(class) && !equality.Semantic.DeepEqual(was.Status, is.Status) {
		return field.Forbidden(field.NewPath("status", "loadBalancer"), fmt.Sprintf(
			"IngressClass %s is of %s: nodes serve it, and the cluster itself tells at which addresses", class.Name, ingress.Controller))
	}
	return nil
}

// keepLeftOut gives a status what it has not of another one, but for its conditions and a load balancer's addresses.
func keepLeftOut(k *kinds.Kind, new, old kinds.Object) {
	is, was := k.FieldsOfStatus(new), k.FieldsOfStatus(old.DeepCopyObject().(kinds.Object))
	for i := range is.NumField() {
		switch is.Type().Field(i).Name {
		case "Conditions", "LoadBalancer":
		default:
			if is.Field(i).IsZero() {
				is.Field(i).Set(was.Field(i))
			}
		}
	}
}

// owned are the conditions of a list that nodes or the cluster set.
func owned(k *kinds.Kind, list reflect.Value) (out []reflect.Value) {
	for i := range list.Len() {
		if c := list.Index(i); k.OwnsCondition(says(c, "Type")) {
			out = append(out, c)
		}
	}
	return out
}

func says(condition reflect.Value, what string) string { return condition.FieldByName(what).String() }

func same(a, b reflect.Value) bool { return equality.Semantic.DeepEqual(a.Interface(), b.Interface()) }

// checkCondition: a condition has a name, says yes, no or unknown, and has few words. A condition that no manifest states is held to
// what Kubernetes holds metav1.Condition to, where its own kind is held to nothing.
func checkCondition(c reflect.Value, at *field.Path) *field.Error {
	kind, status := says(c, "Type"), says(c, "Status")
	states := []metav1.ConditionStatus{metav1.ConditionTrue, metav1.ConditionFalse, metav1.ConditionUnknown}
	wrong := validation.IsQualifiedName(kind)
	switch {
	case len(wrong) > 0:
		return field.Invalid(at.Child("type"), kind, fmt.Sprint(wrong[0]))
	case !slices.Contains(states, metav1.ConditionStatus(status)):
		return field.NotSupported(at.Child("status"), status, states)
	case len(says(c, "Reason")) > maxReason:
		return field.TooLong(at.Child("reason"), "", maxReason)
	case len(says(c, "Message")) > maxMessage:
		return field.TooLong(at.Child("message"), "", maxMessage)
	}
	return nil
}

// keepTheirs gives a status the conditions that programs have set in another one, in place of those that it has.
func keepTheirs(new, old kinds.Object) {
	k := kinds.Of(old)
	list, was := k.ConditionsOf(new), k.ConditionsOf(old)
	merged := owned(k, list)
	for i := range was.Len() {
		if c := was.Index(i); !k.OwnsCondition(says(c, "Type")) {
			merged = append(merged, c)
		}
	}
	fill(list, merged)
}

// fill sets a list to what is in it.
func fill(list reflect.Value, with []reflect.Value) {
	filled := reflect.Zero(list.Type())
	list.Set(reflect.Append(filled, with...))
}
