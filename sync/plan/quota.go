package plan

import (
	"cmp"
	"slices"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"lockstep/kinds"
	"lockstep/kinds/admission"
)

// quotas finds what the steps make beyond the ResourceQuotas that are stated once they are carried out. They are judged together:
// what goes, and what shrinks, makes room for what comes, in whichever order they are carried out. What is there already may be
// more than a quota allows; it may not grow. Templates are judged by what a quota wants of all pods, not by how many there will be;
// those of which none are made are judged with the revision that has some made.
func (d *decision) quotas(steps []Step, then *after) Problems {
	if len(slices.Collect(then.List(kinds.For[*corev1.ResourceQuota]().GroupResource(), ""))) == 0 {
		return nil
	}
	quotas := admission.NewQuotas(then, d.in.View, d.in.Now)
	var written []*Step
	for i := range steps {
		s := &steps[i]
		switch s.Verb {
		case Prune:
			quotas.Release(s.Live, nil)
		case Update:
			quotas.Release(s.Live, s.Object)
			written = append(written, s)
		case Create:
			written = append(written, s)
		}
	}
	slices.SortStableFunc(written, func(a, b *Step) int {
		return cmp.Or(strings.Compare(a.Entry.File, b.Entry.File), cmp.Compare(a.Entry.Line, b.Entry.Line))
	})
	var problems Problems
	for _, s := range written {
		field, reason := "", ""
		if err := quotas.Charge(s.Object, s.Live); err != nil {
			field, reason = err.Field, err.Detail
		} else if pod, at := podOf(s.Object); pod != nil && !idle(s.Object) && then.rules.Admit(pod, then) == nil {
			if err := quotas.Demand(pod); err != nil {
				field, reason = at+strings.TrimPrefix(err.Field, "spec"), err.Detail
			}
		}
		if field != "" {
			reason = field + ": " + reason
		}
		if reason != "" {
			problems = append(problems, Problem{Origin: s.Entry.Origin, Key: s.Key, Field: cmp.Or(field, "metadata.name"), Message: reason})
		}
	}
	return problems
}

// idle says that an object is stated so that it makes no pods: of size 0, or suspended.
func idle(o kinds.Object) bool {
	switch o := o.(type) {
	case *batchv1.Job:
		return ptr.Deref(o.Spec.Suspend, false) || ptr.Deref(o.Spec.Parallelism, 1) == 0
	case *batchv1.CronJob:
		return ptr.Deref(o.Spec.Suspend, false)
	}
	kind := kinds.Of(o)
	return kind.Scalable() && ptr.Deref(kind.Scale(o).Wanted, 1) == 0
}
