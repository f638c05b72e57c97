package rights

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"lockstep/daemon/provenance"
	"lockstep/kinds"
	"lockstep/reconcilers/apiservers"
	"lockstep/store/view"
)

// Verbs are the writes of a resource's objects that roles may grant to programs, in order: of leases, by which they elect a
// leader, and of events. None: it is written by pushing to Git alone, or by the cluster.
func Verbs(of schema.GroupResource) []string {
	switch of {
	case kinds.For[*coordinationv1.Lease]().GroupResource(), kinds.For[*corev1.Event]().GroupResource(), eventsv1.Resource("events"):
		return []string{"create", "delete", "deletecollection", "patch", "update"}
	}
	return nil
}

// programs says that a role may grant an access to programs.
func (a Access) programs() bool {
	return a.Subresource == "" && slices.Contains(Verbs(schema.GroupResource{Group: a.Group, Resource: a.Resource}), a.Verb)
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

// unheld refuses what would keep an object, and its namespace with it, until somebody consents.
func unheld(o kinds.Object) error {
	if len(o.GetFinalizers()) > 0 {
		return field.Forbidden(metadata().Child("finalizers"), "what a program writes goes when it is deleted")
	}
	return nil
}

func metadata() *field.Path { return field.NewPath("metadata") }
