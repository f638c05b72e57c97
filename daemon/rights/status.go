package rights

import (
	"fmt"
	"reflect"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
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
// (see kinds.Columns), and what told says. What it leaves out of the rest stays; the rest is not its to say. Where the status says which
// generation it is of, it says so no more until the cluster's own controller has told what is true: until then nothing goes by it.
func CheckProgramStatus(_ string, _ *view.View, new, old kinds.Object) error {
	keepMeta(new, old)
	k, theirs := kinds.Of(old), told(old)
	if k.Conditions != nil {
		if err := checkConditions(k, new, old); err != nil {
			return err
		}
	}
	keepLeftOut(k, new, old, theirs.fields)

	rest := new.DeepCopyObject().(kinds.Object)
	status, was := k.FieldsOfStatus(rest), k.FieldsOfStatus(old)
	for i := range status.NumField() {
		if name := status.Type().Field(i).Name; name == "Conditions" || slices.Contains(theirs.fields, name) {
			status.Field(i).Set(was.Field(i))
		}
	}
	if !equality.Semantic.DeepEqual(status.Interface(), was.Interface()) {
		return field.Forbidden(field.NewPath("status"), "a program may set only "+theirs.words(k))
	}
	if err := bounded(new); err != nil {
		return err
	}
	unobserved(k, new, old, theirs.fields)
	return nil
}

// tells are fields of a status, by their names in Go, that a program sets beside conditions, and what they are in words.
type tells struct {
	fields []string
	named  string
}

func (t tells) words(k *kinds.Kind) string {
	const conditions = "conditions that neither nodes nor the cluster set"
	switch {
	case k.Conditions == nil:
		return t.named
	case t.named == "":
		return conditions
	}
	return conditions + ", and " + t.named
}

// told is what a program tells of an object as in Kubernetes. The cluster's own controllers count again what they count, and decide by
// nothing of it. Not of a ReplicaSet that a rollout goes by, nor of a Job, whose counts are all that is left of its pods.
func told(o kinds.Object) tells {
	counts := func() tells {
		return tells{countsOf(kinds.Of(o).FieldsOfStatus(o).Type()), "counts of its pods but replicas"}
	}
	switch o := o.(type) {
	case *corev1.Service:
		t := tells{named: "of a Service of type LoadBalancer its loadBalancer"}
		if o.Spec.Type == corev1.ServiceTypeLoadBalancer {
			t.fields = []string{"LoadBalancer"}
		}
		return t
	case *corev1.ResourceQuota:
		return tells{[]string{"Hard", "Used"}, "hard and used"}
	case *corev1.PersistentVolume:
		return tells{[]string{"Message", "Reason"}, "message and reason"}
	case *policyv1.PodDisruptionBudget:
		return tells{[]string{"DisruptedPods"}, "disruptedPods"}
	case *appsv1.ReplicaSet:
		if metav1.GetControllerOfNoCopy(o) != nil {
			return tells{}
		}
		return counts()
	case *appsv1.Deployment, *appsv1.StatefulSet, *appsv1.DaemonSet, *corev1.ReplicationController:
		return counts()
	}
	return tells{}
}

// countsOf are the counts of pods in a status, but for replicas, which the subresource scale tells.
func countsOf(status reflect.Type) (names []string) {
	for i := range status.NumField() {
		f := status.Field(i)
		if f.Name != "Replicas" && f.Name != "CollisionCount" && (f.Type.Kind() == reflect.Int32 || f.Type == reflect.TypeFor[*int32]()) {
			names = append(names, f.Name)
		}
	}
	return names
}

// bounded holds what a program tells to what the cluster can keep of it.
func bounded(o kinds.Object) error {
	status := field.NewPath("status")
	switch o := o.(type) {
	case *corev1.PersistentVolume:
		if len(o.Status.Reason) > maxReason {
			return field.TooLong(status.Child("reason"), "", maxReason)
		}
		if len(o.Status.Message) > maxMessage {
			return field.TooLong(status.Child("message"), "", maxMessage)
		}
	case *policyv1.PodDisruptionBudget:
		if n := len(o.Status.DisruptedPods); n > maxDisrupted {
			return field.TooMany(status.Child("disruptedPods"), n, maxDisrupted)
		}
	}
	return nil
}

// maxDisrupted bounds the pods that a budget expects to end, as Kubernetes' eviction does (MaxDisruptedPodSize).
const maxDisrupted = 2000

// unobserved has a status of which a program changed fields say of no generation that it is of it, where it says so.
func unobserved(k *kinds.Kind, new, old kinds.Object, fields []string) {
	is, was := k.FieldsOfStatus(new), k.FieldsOfStatus(old)
	generation := is.FieldByName("ObservedGeneration")
	if !generation.IsValid() {
		return
	}
	for _, name := range fields {
		if !equality.Semantic.DeepEqual(is.FieldByName(name).Interface(), was.FieldByName(name).Interface()) {
			generation.SetZero()
		}
	}
}

// checkConditions gives a status the conditions that a program sets, and those that nodes or the cluster have set.
func checkConditions(k *kinds.Kind, new, old kinds.Object) error {
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

// keepLeftOut gives a status what it has not of another one, but for conditions and some fields: of these it has nothing more.
func keepLeftOut(k *kinds.Kind, new, old kinds.Object, but []string) {
	is, was := k.FieldsOfStatus(new), k.FieldsOfStatus(old.DeepCopyObject().(kinds.Object))
	for i := range is.NumField() {
		if name := is.Type().Field(i).Name; name != "Conditions" && !slices.Contains(but, name) && is.Field(i).IsZero() {
			is.Field(i).Set(was.Field(i))
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
