package engine

import (
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"lockstep/internal/spread"
	"lockstep/kinds"
	"lockstep/kinds/admission"
	"lockstep/kinds/strategy"
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

// prepareCreations defaults and admits many, and passes each through PrepareCreate.
func (r Rules) prepareCreations(objects []kinds.Object, in admission.Cluster) []error {
	errs := make([]error, len(objects))
	spread.Over(len(objects), parallelFrom, func(i int) {
		o := objects[i]
		r.Default(o)
		if err := r.Admit(o, in); err != nil {
			errs[i] = forbidden(kinds.KeyOf(o), err)
		} else if list := r.PrepareCreate(o); len(list) > 0 {
			errs[i] = invalid(kinds.KeyOf(o), list)
		}
	})
	return errs
}
