package rights

import (
	"errors"
	"fmt"
	"slices"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"lockstep/kinds"
	"lockstep/reconcilers/apiservers"
	"lockstep/store/view"
)

// Verbs are the writes of a resource's objects that roles may grant to programs, in order: of leases, by which they elect a
// leader, and of events. None: it is written by pushing to Git alone, or by the cluster.
func Verbs(of schema.GroupResource) []string {
	switch of {
	case kinds.For[*coordinationv1.Lease]().GroupResource():
		return []string{"create", "delete", "patch", "update"}
	case kinds.For[*corev1.Event]().GroupResource(), eventsv1.Resource("events"):
		return []string{"create", "patch"} // as Kubernetes' recorders write them
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
func CheckProgramLease(_ *view.View, new, _ kinds.Object) error {
	if err := reserved(new.GetNamespace(), new.GetName()); err != nil {
		return err
	}
	if apiservers.Is(new) {
		return errors.New("its labels are those of leases of API servers, which they alone write")
	}
	return unheld(new)
}

// CheckProgramEvent: a program tells of what is in the event's namespace, as Kubernetes has it for events of recorders, or in none,
// and the event expires as every other.
func CheckProgramEvent(_ *view.View, new, _ kinds.Object) error {
	if about := new.(*corev1.Event).InvolvedObject.Namespace; about != "" && about != new.GetNamespace() {
		return field.Invalid(field.NewPath("involvedObject", "namespace"), about, "does not match event.namespace")
	}
	if len(new.GetOwnerReferences()) > 0 {
		return field.Forbidden(metadata().Child("ownerReferences"), "an event ends when its time has come")
	}
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
