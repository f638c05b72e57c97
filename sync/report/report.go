// Package report tells of the objects that a source states: where each is stated, and how it does.
package report

import (
	"time"

	"lockstep/kinds"
	"lockstep/store/view"
	"lockstep/sync/health"
	"lockstep/sync/plan"
)

// Report is of one source, as a view has it at one moment.
type Report struct {
	// Objects are in the order of the inventory; those that the source no longer states, and that are not gone yet, are among
	// them.
	Objects []Object
	// Roll sums up the objects that the source states.
	Roll health.Roll
}

// Object is one object of a source.
type Object struct {
	// Stated is its entry of the inventory: what the source states, and where. It is shared: do not change it.
	Stated *plan.Desired
	Health kinds.Health
}

// State is the object's state of health in a word: healthy, progressing or failed.
func (o Object) State() string {
	switch o.Health.State {
	case kinds.Healthy:
		return "healthy"
	case kinds.Failed:
		return "failed"
	default:
		return "progressing"
	}
}

// Of reports of a source's inventory.
func Of(inventory []plan.Desired, v *view.View, now time.Time) Report {
	r := Report{Objects: make([]Object, len(inventory))}
	judge, sum := health.At(v, now), health.NewSum()
	for i := range inventory {
		o := Object{Stated: &inventory[i], Health: judge.Of(inventory[i].Key)}
		if end := o.Stated.Ended; end != "" && o.Stated.State == plan.Applied && v.Get(o.Stated.Key) == nil {
			o.Health = kinds.Health{State: kinds.Failed, Cause: end}
			if end == plan.Complete {
				o.Health = kinds.Health{State: kinds.Healthy}
			}
		}
		if o.Stated.State != plan.Pruning {
			sum.Add(o.Stated.Key, o.Health)
		}
		r.Objects[i] = o
	}
	r.Roll = sum.Roll
	return r
}
