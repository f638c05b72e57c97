package engine

import (
	"fmt"
	"slices"
	"strconv"
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

// prepared is a decision as writes. Everything in it is a copy of its own.
type prepared struct {
	steps   []step
	refused []refused
}

// prepare passes a decision that check has approved through Kubernetes' rules. After a first refused creation no other
// is tried: the next one would most likely fail the same way, and the loop comes back to it (Kubernetes' slow start).
func (e *Engine) prepare(v *view.View, r *Reconciler, rules writeRules, owner kinds.Object, d loop.Decision, now time.Time) prepared {
	var p prepared
	for _, w := range d.Wants {
		switch {
		case w.Object.GetUID() == "":
			if len(p.refused) == 0 {
				e.prepareCreate(v, w, &p)
			}
		case d.Status != nil && owner != nil && w.Object.GetUID() == owner.GetUID():
			// Written with the status, below.
		default:
			e.prepareUpdate(v, w, &p)
		}
	}
	for _, drop := range d.Drops {
		e.prepareDrop(v, drop, now, &p)
	}
	for _, drop := range implicitDrops(v, rules, owner, d) {
		e.prepareDrop(v, drop, now, &p)
	}
	status := d.Status
	if len(p.refused) > 0 && d.IfRefused != nil {
		status = d.IfRefused(p.refused[0].cause)
	}
	if status != nil {
		e.prepareStatus(v, status, d.Wants, r.Name, &p)
	}
	return p
}

func (e *Engine) prepareCreate(v *view.View, w loop.Want, p *prepared) {
	o := w.Object.DeepCopyObject().(kinds.Object)
	if ns := o.GetNamespace(); ns != "" {
		namespace, ok := view.Get[*corev1.Namespace](v, "", ns)
		if !ok || namespace.DeletionTimestamp != nil {
			return // nothing is created in a namespace that is going away, and nobody needs to be told
		}
	}
	if o.GetName() == "" {
		e.names.generate(v, o)
	}
	key := kinds.KeyOf(o)
	if errs := e.Rules.PrepareCreate(o); len(errs) > 0 {
		p.refused = append(p.refused, refused{key, invalid(key, errs), w.Failed})
		return
	}
	p.steps = append(p.steps, step{
		Write:     store.Write{Key: key, Object: o, Reason: w.Reason},
		operation: "create", done: w.Done, failed: w.Failed,
	})
}

// prepareUpdate changes an object outside of its status, or inside, or both, each by its own rules.
func (e *Engine) prepareUpdate(v *view.View, w loop.Want, p *prepared) {
	key := kinds.KeyOf(w.Object)
	old := v.Get(key)
	if old == w.Object || equality.Semantic.DeepEqual(old, w.Object) {
		return
	}
	next, errs := e.updated(w.Object, old)
	if len(errs) > 0 {
		p.refused = append(p.refused, refused{key, invalid(key, errs), w.Failed})
		return
	}
	p.update(old, next, w.Reason, w.Done, w.Failed)
}

func (e *Engine) updated(o, old kinds.Object) (kinds.Object, field.ErrorList) {
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
		if errs := e.Rules.PrepareUpdate(next, old); len(errs) > 0 {
			return nil, errs
		}
	}
	if !status || !kinds.Of(o).Status {
		return next, nil
	}
	both := o.DeepCopyObject().(kinds.Object)
	return both, e.Rules.PrepareStatus(both, next)
}

func (e *Engine) prepareStatus(v *view.View, status kinds.Object, wants []loop.Want, reconciler string, p *prepared) {
	key := kinds.KeyOf(status)
	old := v.Get(key)
	base, reason := old, "status of "+reconciler
	for _, w := range wants {
		if w.Object.GetUID() != old.GetUID() {
			continue
		}
		next, errs := e.updated(w.Object, old)
		if len(errs) > 0 {
			p.refused = append(p.refused, refused{key, invalid(key, errs), w.Failed})
			return
		}
		base, reason = next, w.Reason
	}
	next := status.DeepCopyObject().(kinds.Object)
	if errs := e.Rules.PrepareStatus(next, base); len(errs) > 0 {
		p.refused = append(p.refused, refused{key, invalid(key, errs), nil})
		return
	}
	p.update(old, next, reason, nil, nil)
}

func (p *prepared) update(old, next kinds.Object, reason string, done, failed *loop.Event) {
	if equality.Semantic.DeepEqual(old, next) {
		return
	}
	p.steps = append(p.steps, step{
		Write:     store.Write{Key: kinds.KeyOf(old), Object: next, If: revisionOf(old), Reason: reason},
		operation: "update", done: done, failed: failed,
	})
}

// prepareDrop deletes as Kubernetes does. Dropping what is gone, or going already, does nothing.
func (e *Engine) prepareDrop(v *view.View, drop loop.Drop, now time.Time, p *prepared) {
	old := v.Get(drop.Key)
	if old == nil || old.GetUID() != drop.UID {
		return
	}
	changed, gone := e.Rules.Delete(old, now, nil)
	if drop.Now && len(old.GetFinalizers()) == 0 {
		gone = true
	}
	if changed == nil && !gone {
		return
	}
	w := store.Write{Key: drop.Key, If: revisionOf(old), Reason: drop.Reason}
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

// invalid words a refusal as Kubernetes' API server does.
func invalid(key kinds.Key, errs field.ErrorList) error {
	kind := kinds.ForResource(key.GroupResource())
	name := kind.Kind
	if kind.Group != "" {
		name += "." + kind.Group
	}
	return fmt.Errorf("%s %q is invalid: %w", name, key.Name, errs.ToAggregate())
}

// revisionOf returns the etcd revision an object is of; zero where it is not from a store.
func revisionOf(o kinds.Object) int64 {
	revision, err := strconv.ParseInt(o.GetResourceVersion(), 10, 64)
	if err != nil {
		return 0
	}
	return revision
}
