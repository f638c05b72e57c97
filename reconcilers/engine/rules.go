package engine

import (
	"reflect"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"lockstep/internal/spread"
	"lockstep/kinds"
	"lockstep/kinds/admission"
	"lockstep/kinds/strategy"
	"lockstep/reconcilers/loop"
)

// Rules are Kubernetes' rules for objects, as package kinds/strategy documents them.
type Rules struct {
	// Default is asked first for what is created: a template may lack defaults of what is made of it, as that of a CronJob does
	// those of a Job, and that of a ReplicaSet the requests that a pod's limits imply.
	Default func(o kinds.Object)
	// Admit is that of package kinds/admission.
	Admit         func(o kinds.Object, in admission.Cluster) *field.Error
	PrepareCreate func(o kinds.Object) field.ErrorList
	PrepareUpdate func(new, old kinds.Object) field.ErrorList
	PrepareStatus func(new, old kinds.Object) field.ErrorList
	Delete        func(o kinds.Object, now time.Time, grace *int64) (changed kinds.Object, gone bool)
}

func (r Rules) orKubernetes() Rules {
	if r.PrepareCreate == nil {
		return Rules{
			strategy.Default, admission.Admit,
			strategy.PrepareCreate, strategy.PrepareUpdate, strategy.PrepareStatus, strategy.Delete,
		}
	}
	return r
}

// parallelFrom is how many creations are worth spreading over the processors: the rules take some 50 µs for a pod.
const parallelFrom = 16

// creation is one object to create as the rules leave it, or their refusal.
type creation struct {
	object kinds.Object
	err    error
}

// create passes copies of objects through the rules, after name has named those that have none. What differs from like, which has
// passed, in nothing but the name that it is given is how that one passed, and shares what it points to: a thousand pods of one
// template are judged and copied once. like may be nil.
func (r Rules) create(wants []loop.Want, like, passed kinds.Object, name func(kinds.Object), in admission.Cluster) []creation {
	made := make([]creation, len(wants))
	judge := make([]bool, len(wants))
	spread.Over(len(wants), parallelFrom, func(i int) {
		o := wants[i].Object
		if judge[i] = like == nil || o.GetName() != "" || o != like && !reflect.DeepEqual(o, like); judge[i] {
			made[i].object = o.DeepCopyObject().(kinds.Object)
		} else {
			made[i].object = kinds.Of(passed).Copy(passed)
		}
	})
	for i, w := range wants {
		if w.Object.GetName() == "" {
			name(made[i].object)
		}
	}
	spread.Over(len(wants), parallelFrom, func(i int) {
		if judge[i] {
			made[i].err = r.prepareCreation(made[i].object, in)
		}
	})
	return made
}

// prepareCreation defaults an object, admits it, and passes it through PrepareCreate.
func (r Rules) prepareCreation(o kinds.Object, in admission.Cluster) error {
	r.Default(o)
	if err := r.Admit(o, in); err != nil {
		return forbidden(kinds.KeyOf(o), err)
	}
	if list := r.PrepareCreate(o); len(list) > 0 {
		return invalid(kinds.KeyOf(o), list)
	}
	return nil
}
