// Package ttl removes the Jobs that have ended and outlived their ttlSecondsAfterFinished.
package ttl

import (
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// noted is how often it is looked whether the source of a Job has noted that it ended: sync does so in a fraction of a second
// unless etcd or its own passes are slow.
const noted = time.Second

// New returns the reconciler. Until known says that whoever stated a Job knows that it has ended, the Job stays, since it would
// be run again; nil: nobody has to know.
func New(known func(*view.View, kinds.Key) bool) loop.Reconciler {
	job := kinds.For[*batchv1.Job]()
	return loop.Reconciler{
		Name:      "ttl",
		Component: "ttl-after-finished-controller",
		Reads:     []loop.Read{{Kind: job, How: "itself", Keys: loop.Self}},
		Writes:    []loop.Write{{Kind: job, Delete: true}},
		Records:   known != nil,
		Decide: func(v *view.View, key kinds.Key, now time.Time) (loop.Decision, error) {
			j, ok := v.Get(key).(*batchv1.Job)
			if !ok || j.DeletionTimestamp != nil || j.Spec.TTLSecondsAfterFinished == nil {
				return loop.Decision{}, nil
			}
			ended := kinds.JobFinished(j)
			if ended == nil {
				return loop.Decision{}, nil
			}
			lives := time.Duration(*j.Spec.TTLSecondsAfterFinished) * time.Second
			if due := ended.LastTransitionTime.Add(lives); due.After(now) {
				return loop.Decision{Again: due}, nil
			}
			if known != nil && !known(v, key) {
				return loop.Decision{Again: now.Add(noted)}, nil
			}
			return loop.Decision{Drops: []loop.Drop{loop.DropOf(j, fmt.Sprintf("it ended, and %v have passed", lives))}}, nil
		},
	}
}
