package rights

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"lockstep/daemon/provenance"
	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/reconcilers/apiservers"
	"lockstep/store/view"
)

// Verbs are the writes of a resource's objects, or of one of its subresources, that roles may grant to programs, in order: of leases,
// by which they elect a leader, of events, evictions, and of the status of pods, of which they set what readiness gates wait for, of
// Ingresses that they serve, and of the kinds of which they tell conditions, counts or the like. None: it is written by pushing to Git
// alone, or by the cluster.
func Verbs(of schema.GroupResource, subresource string) []string {
	pod := of == kinds.For[*corev1.Pod]().GroupResource()
	ingress := of == kinds.For[*networkingv1.Ingress]().GroupResource()
	switch {
	case subresource == "" && (of == kinds.For[*coordinationv1.Lease]().GroupResource() ||
		of == kinds.For[*corev1.Event]().GroupResource() || of == eventsv1.Resource("events")):
		return []string{"create", "delete", "deletecollection", "patch", "update"}
	case subresource == "eviction" && pod:
		return []string{"create"}
	case subresource == "status" && (pod || ingress || tellable(of)):
		return []string{"patch", "update"}
	}
	return nil
}

// tellable says that programs tell some of the status of a kind's objects: conditions, or what told says.
func tellable(of schema.GroupResource) bool {
	kind := kinds.ForResource(of)
	return kind != nil && (kind.Conditions != nil || told(kind.New()).named != "")
}

// Subresources are those that Verbs knows some of, in order; the empty one is the object itself.
func Subresources() []string { return []string{"", "eviction", "status"} }

// programs says that a role may grant an access to programs.
func (a Access) programs() bool {
	return slices.Contains(Verbs(schema.GroupResource{Group: a.Group, Resource: a.Resource}, a.Subresource), a.Verb)
}

// programWrites: what the policy grants, but for what the cluster itself goes by.
func programWrites(who Subject, a Access, p *Policy) (Verdict, string) {
	ok, why := p.grants(&who.User, a)
	if !ok {
		return Forbidden, why
	}
	if a.Verb == "deletecollection" && a.Namespace == "" {
		return NotThisWay, "nobody deletes those of all namespaces at once"
	}
	if a.Resource == kinds.For[*coordinationv1.Lease]().Resource {
		if err := reserved(a.Namespace, a.Name); err != nil {
			return NotThisWay, err.Error()
		}
	}
	return Allowed, why
}

// reserved says whose a lease is that no program may write.
func reserved(namespace, name string) error {
	switch {
	case namespace == nodeLeases:
		return fmt.Errorf("the leases in %s are heartbeats, which nodes alone write", nodeLeases)
	case apiservers.Named(namespace, name):
		return fmt.Errorf("%s is a name of leases of API servers, which they alone write", name)
	}
	return nil
}

// CheckProgramLease: a program writes leases that are neither nodes' nor API servers', and that nothing holds when they go. A
// field that it may not state is a *field.Error, also CheckProgramEvent's.
func CheckProgramLease(_ string, _ *view.View, new, _ kinds.Object) error {
	if err := reserved(new.GetNamespace(), new.GetName()); err != nil {
		return err
	}
	if apiservers.Is(new) {
		return errors.New("its labels are those of leases of API servers, which they alone write")
	}
	return unheld(new)
}

// CheckProgramEvent: a program tells of what is in the event's namespace, as Kubernetes has it for events of recorders, or in none,
// and the event expires as every other. It bears the account's name. What nodes and the cluster have told stays as it is. A deletion
// has the same object as new and old.
func CheckProgramEvent(account string, _ *view.View, new, old kinds.Object) error {
	if old != nil && old.GetAnnotations()[provenance.AnnotationTeller] == "" {
		return errors.New("what nodes and the cluster itself have told stays as it is until it expires")
	}
	if new == old {
		return nil
	}
	if about := new.(*corev1.Event).InvolvedObject.Namespace; about != "" && about != new.GetNamespace() {
		return field.Invalid(field.NewPath("involvedObject", "namespace"), about, "does not match event.namespace")
	}
	if len(new.GetOwnerReferences()) > 0 {
		return field.Forbidden(metadata().Child("ownerReferences"), "an event ends when its time has come")
	}
	told := maps.Clone(new.GetAnnotations())
	if told == nil {
		told = map[string]string{}
	}
	told[provenance.AnnotationTeller] = account
	new.SetAnnotations(told)
	return unheld(new)
}

// CheckProgramPodStatus: a program sets the conditions that the pod's readinessGates name, and nothing else of it: the rest is the
// node's to tell, and the cluster's.
func CheckProgramPodStatus(_ string, _ *view.View, new, old kinds.Object) error {
	keepMeta(new, old)
	was, is := old.(*corev1.Pod), new.(*corev1.Pod)
	gates := podstatus.Gates(was)
	if !equality.Semantic.DeepEqual(ungated(was.Status, gates), ungated(is.Status, gates)) {
		return field.Forbidden(field.NewPath("status"), fmt.Sprintf(
			"a program may set only conditions that the pod's readinessGates name: %v", gates))
	}
	for i, c := range is.Status.Conditions {
		at := field.NewPath("status", "conditions").Index(i)
		states := []corev1.ConditionStatus{corev1.ConditionTrue, corev1.ConditionFalse, corev1.ConditionUnknown}
		switch {
		case !slices.Contains(gates, c.Type):
		case !slices.Contains(states, c.Status):
			return field.NotSupported(at.Child("status"), c.Status, states)
		case len(c.Reason) > maxReason:
			return field.TooLong(at.Child("reason"), "", maxReason)
		case len(c.Message) > maxMessage:
			return field.TooLong(at.Child("message"), "", maxMessage)
		case podstatus.Condition(&is.Status, c.Type) != &is.Status.Conditions[i]:
			return field.Duplicate(at.Child("type"), c.Type)
		}
	}
	return nil
}

// What a program says of a condition is bounded as metav1.Condition's fields are.
const (
	maxReason  = 1024
	maxMessage = 32 << 10
)

// ungated is a status without some conditions.
func ungated(s corev1.PodStatus, gates []corev1.PodConditionType) corev1.PodStatus {
	s.Conditions = slices.DeleteFunc(slices.Clone(s.Conditions), func(c corev1.PodCondition) bool {
		return slices.Contains(gates, c.Type)
	})
	return s
}

// unheld refuses what would keep an object, and its namespace with it, until somebody consents.
func unheld(o kinds.Object) error {
	if len(o.GetFinalizers()) > 0 {
		return field.Forbidden(metadata().Child("finalizers"), "what a program writes goes when it is deleted")
	}
	return nil
}

func metadata() *field.Path { return field.NewPath("metadata") }
