package engine

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/store"
	"lockstep/store/view"
)

// step is one object to write, with what to tell about it.
type step struct {
	store.Write
	operation    string // create, update or delete
	done, failed *loop.Event
}

// refused is a write that Kubernetes' rules do not allow.
type refused struct {
	key    kinds.Key
	cause  error
	failed *loop.Event
}

// prepared is a decision as writes. Everything in it is a copy, of its own or of what is made alike; nobody changes it.
type prepared struct {
	steps   []step
	refused []refused
}

// preparation is what a decision is prepared from, and what has become of it.
type preparation struct {
	prepared
	rules Rules
	view  *view.View
	now   time.Time
	names names
	// charge judges creations by quotas, the one after the other.
	charge func(kinds.Object) *field.Error
}

// prepare passes a decision that check has approved through Kubernetes' rules, and what it creates through charge. Of each object
// that has only a generateName the seed decides the name. After a first refused creation no other is tried: the next one would most likely
// fail the same way, and the loop comes back to it (Kubernetes' slow start).
func prepare(r *Reconciler, writes writeRules, rules Rules, v *view.View, owner kinds.Object, d loop.Decision,
	now time.Time, seed uint64, charge func(kinds.Object) *field.Error) prepared {
	p := preparation{rules: rules, view: v, now: now, names: names{seed: seed}, charge: charge}
	for i := 0; i < len(d.Wants); i++ {
		w := d.Wants[i]
		switch {
		case w.Object.GetUID() == "":
			from := i
			for i+1 < len(d.Wants) && d.Wants[i+1].Object.GetUID() == "" {
				i++
			}
			if len(p.refused) == 0 {
				p.create(slices.Clone(d.Wants[from : i+1]))
			}
		case d.Status != nil && owner != nil && w.Object.GetUID() == owner.GetUID():
			// Written with the status, below.
		default:
			p.change(w)
		}
	}
	for _, drop := range d.Drops {
		p.drop(drop)
	}
	for _, drop := range implicitDrops(v, writes, owner, d) {
		p.drop(drop)
	}
	status := d.Status
	if len(p.refused) > 0 && d.IfRefused != nil {
		status = d.IfRefused(p.refused[0].cause)
	}
	if status != nil {
		p.status(status, d.Wants, r.Name)
	}
	return p.prepared
}

// create passes creations through the rules: the first alone, since the others are most likely like it. What follows one that
// is refused is left.
func (p *preparation) create(wants []loop.Want) {
	wants = slices.DeleteFunc(wants, func(w loop.Want) bool { return !p.open(w.Object.GetNamespace()) })
	name := func(o kinds.Object) { p.names.generate(p.view, o) }
	if len(wants) == 0 || !p.take(wants[:1], p.rules.create(wants[:1], nil, nil, name, p.view)) {
		return
	}
	p.take(wants[1:], p.rules.create(wants[1:], wants[0].Object, p.steps[len(p.steps)-1].Object, name, p.view))
}

// take has what has passed written, up to the first that has not, and says whether all have.
func (p *preparation) take(wants []loop.Want, made []creation) bool {
	for i, w := range wants {
		key, err := kinds.KeyOf(made[i].object), made[i].err
		if err == nil {
			if exceeded := p.charge(made[i].object); exceeded != nil {
				err = forbidden(key, exceeded)
			}
		}
		if err != nil {
			p.refused = append(p.refused, refused{key, err, w.Failed})
			return false
		}
		p.steps = append(p.steps, step{
			Write:     store.Write{Key: key, Object: made[i].object, Reason: w.Reason},
			operation: "create", done: w.Done, failed: w.Failed,
		})
	}
	return true
}

// open says whether anything may be created in a namespace: in one that is going away nothing is, and nobody needs to be told.
func (p *preparation) open(namespace string) bool {
	if namespace == "" {
		return true
	}
	o, ok := view.Get[*corev1.Namespace](p.view, "", namespace)
	return ok && o.DeletionTimestamp == nil
}

// change changes an object outside of its status, or inside, or both, each by its own rules.
func (p *preparation) change(w loop.Want) {
	key := kinds.KeyOf(w.Object)
	old := p.view.Get(key)
	if old == w.Object || equality.Semantic.DeepEqual(old, w.Object) {
		return
	}
	next, errs := p.updated(w.Object, old)
	if len(errs) > 0 {
		p.refused = append(p.refused, refused{key, invalid(key, errs), w.Failed})
		return
	}
	p.update(old, next, w.Reason, w.Done, w.Failed)
}

func (p *preparation) updated(o, old kinds.Object) (kinds.Object, field.ErrorList) {
	var status, rest bool
	for _, path := range changedPaths(old, o) {
		if path == "status" || strings.HasPrefix(path, "status.") {
			status = true
		} else {
			rest = true
		}
	}
	next := old
	if rest || !kinds.Of(o).Status {
		next = o.DeepCopyObject().(kinds.Object)
		if errs := p.rules.PrepareUpdate(next, old); len(errs) > 0 {
			return nil, errs
		}
	}
	if !status || !kinds.Of(o).Status {
		return next, nil
	}
	both := o.DeepCopyObject().(kinds.Object)
	return both, p.rules.PrepareStatus(both, next)
}

func (p *preparation) status(status kinds.Object, wants []loop.Want, reconciler string) {
	key := kinds.KeyOf(status)
	old := p.view.Get(key)
	base, reason := old, "status of "+reconciler
	for _, w := range wants {
		if w.Object.GetUID() != old.GetUID() {
			continue
		}
		next, errs := p.updated(w.Object, old)
		if len(errs) > 0 {
			p.refused = append(p.refused, refused{key, invalid(key, errs), w.Failed})
			return
		}
		base, reason = next, w.Reason
	}
	next := status.DeepCopyObject().(kinds.Object)
	if errs := p.rules.PrepareStatus(next, base); len(errs) > 0 {
		p.refused = append(p.refused, refused{key, invalid(key, errs), nil})
		return
	}
	p.update(old, next, reason, nil, nil)
}

func (p *preparation) update(old, next kinds.Object, reason string, done, failed *loop.Event) {
	if equality.Semantic.DeepEqual(old, next) {
		return
	}
	w := store.Write{Key: kinds.KeyOf(old), Object: next, If: kinds.Revision(old), Reason: reason}
	operation := "update"
	if letGo(old, next) {
		w.Object, operation = nil, "delete"
	}
	p.steps = append(p.steps, step{Write: w, operation: operation, done: done, failed: failed})
}

// letGo says that an update takes the last finalizer from what is being deleted: it goes, as in Kubernetes.
func letGo(old, next kinds.Object) bool {
	grace := next.GetDeletionGracePeriodSeconds()
	return next.GetDeletionTimestamp() != nil && (grace == nil || *grace == 0) && len(old.GetFinalizers()) > 0 &&
		len(next.GetFinalizers()) == 0
}

// drop deletes as Kubernetes does. Dropping what is gone, or going already, does nothing.
func (p *preparation) drop(drop loop.Drop) {
	old := p.view.Get(drop.Key)
	if old == nil || old.GetUID() != drop.UID {
		return
	}
	last := old
	if drop.As != nil {
		var errs field.ErrorList
		if last, errs = p.updated(drop.As, old); len(errs) > 0 {
			p.refused = append(p.refused, refused{drop.Key, invalid(drop.Key, errs), nil})
			return
		}
	}
	changed, gone := p.rules.Delete(last, p.now, nil)
	if drop.Now && len(old.GetFinalizers()) == 0 {
		gone = true
	}
	if changed == nil && !gone {
		return
	}
	w := store.Write{Key: drop.Key, If: kinds.Revision(old), Reason: drop.Reason}
	if !gone {
		w.Object = changed
	}
	p.steps = append(p.steps, step{Write: w, operation: "delete", done: drop.Done})
}

// implicitDrops are the derived children that the decision does not want.
func implicitDrops(v *view.View, rules writeRules, owner kinds.Object, d loop.Decision) []loop.Drop {
	if owner == nil {
		return nil
	}
	var drops []loop.Drop
	for child := range v.Controlled(owner.GetUID()) {
		if !rules[kinds.Of(child)].Derived {
			continue
		}
		uid := child.GetUID()
		if slices.ContainsFunc(d.Wants, func(w loop.Want) bool { return w.Object.GetUID() == uid }) ||
			slices.ContainsFunc(d.Drops, func(drop loop.Drop) bool { return drop.UID == uid }) {
			continue
		}
		drops = append(drops, loop.DropOf(child, "not wanted any more"))
	}
	return drops
}

// forbidden words a refusal of admission as Kubernetes' API server does.
func forbidden(key kinds.Key, err *field.Error) error {
	return fmt.Errorf("%s %q is forbidden: %s", key.GroupResource(), key.Name, err.Detail)
}

// invalid words a refusal as Kubernetes' API server does.
func invalid(key kinds.Key, errs field.ErrorList) error {
	kind := kinds.ForResource(key.GroupResource())
	name := kind.Kind
	if kind.Group != "" {
		name += "." + kind.Group
	}
	return fmt.Errorf("%s %q is invalid: %w", name, key.Name, errs.ToAggregate())
}
