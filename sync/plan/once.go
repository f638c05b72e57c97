package plan

import (
	"time"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"lockstep/kinds"
)

// replaceAnnotation of a Job asks that one that has ended is replaced where a change of it would be refused.
const replaceAnnotation = "lockstep.dev/replace"

// asStated keeps an object. What has ended is noted.
func asStated(step Step) (Step, bool) {
	step.Verb, step.Reason = Keep, "as stated"
	if end := endOf(step.Live); end != "" && end != step.Entry.Ended {
		step.Reason, step.Entry.Ended = "as stated, and has ended: "+end, end
		return step, true
	}
	return step, step.Entry.State == Pending
}

// endOf says how a Job has ended; empty: it has not, or the object is no Job.
func endOf(o kinds.Object) string {
	j, ok := o.(*batchv1.Job)
	if !ok {
		return ""
	}
	switch c := kinds.JobFinished(j); {
	case c == nil:
		return ""
	case c.Type == batchv1.JobComplete:
		return Complete
	default:
		return c.Reason + ": " + c.Message
	}
}

// another is the step for an object that cannot become what is stated, since Kubernetes' rules allow no such change. A Job that
// has ended is replaced where its manifest asks for that.
func another(step Step, errs field.ErrorList, changes []Change, rules Rules, now time.Time) Step {
	step.Verb, step.Reason, step.Field = Refuse, explain(&step, errs, changes), errs[0].Field
	stated, err := decode(step.Key, step.Entry.Object)
	if _, ok := stated.(*batchv1.Job); !ok || err != nil {
		return step
	}
	asks := stated.GetAnnotations()[replaceAnnotation] == "true"
	rules.Default(stated)
	if len(rules.PrepareCreate(stated)) > 0 {
		return step // the manifest itself is at fault
	}
	cause := errs[0].Field + ": " + errs[0].Detail
	switch {
	case !asks:
		step.Reason = cause + "; rename it, or annotate it with " + replaceAnnotation + `: "true"`
	case endOf(step.Live) == "":
		step.Reason = cause + "; it is replaced once it has ended"
	default:
		step.Verb, step.Reason, step.Field = Replace, "stated anew, and it has ended; "+cause, ""
		if changed, gone := rules.Delete(step.Live, now); !gone {
			step.Object = changed
		}
	}
	return step
}
