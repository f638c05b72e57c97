package health

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
)

// rule is how objects are judged whose row names it.
type rule struct {
	judge func(*Judge, kinds.Object) Result
	// reads is what judging looks at besides the object.
	reads func() []read
	// follows: it fails because what it leads to does, which is told first.
	follows bool
}

// read is a kind that a rule looks at.
type read struct {
	kind *kinds.Kind
	// wakes says whether a change may change a judgement, either state being nil where there is none; nil: any may.
	wakes func(old, new kinds.Object) bool
}

// ruleOf returns the rule of a kind's row. It panics for a kind without one, which a test does not let in.
func ruleOf(k *kinds.Kind) rule {
	switch k.Health {
	case kinds.HealthyOnceThere:
		return rule{
			judge: func(*Judge, kinds.Object) Result { return Result{State: Healthy} },
			reads: func() []read { return nil },
		}
	case kinds.HealthyOnceRolledOut:
		return rule{
			judge: func(j *Judge, o kinds.Object) Result { return deployment(o.(*appsv1.Deployment), j.view, j.now) },
			reads: func() []read { return append(podReads(), read{kind: kinds.For[*appsv1.ReplicaSet]()}) },
		}
	case kinds.HealthyOnceReplicated:
		return rule{
			judge: func(j *Judge, o kinds.Object) Result { return replicaSet(o.(*appsv1.ReplicaSet), j.view, j.now) },
			reads: podReads,
		}
	case kinds.HealthyOnceReady:
		return rule{
			judge: func(j *Judge, o kinds.Object) Result { return pod(o.(*corev1.Pod), j.view, j.now) },
			reads: podReads,
		}
	case kinds.HealthyOnceReached:
		return rule{
			judge:   func(j *Judge, o kinds.Object) Result { return j.service(o.(*corev1.Service)) },
			reads:   func() []read { return append(podReads(), read{kinds.For[*corev1.Node](), rulesChanged}) },
			follows: true,
		}
	}
	panic("health: " + k.Kind + " has no rule")
}

// podReads is what judging pods looks at. That a node is silent is told by its pods, which are then made unready; its
// heartbeats only tell for how long.
func podReads() []read {
	never := func(_, _ kinds.Object) bool { return false }
	return []read{
		{kind: kinds.For[*corev1.Pod]()}, {kinds.For[*corev1.Node](), never}, {kinds.For[*coordinationv1.Lease](), never},
	}
}

// Reads are the kinds that judgements look at besides their own objects.
type Reads map[*kinds.Kind][]read

// AllReads are those of every rule that a row names.
func AllReads() Reads {
	reads := Reads{}
	for _, k := range kinds.All {
		for _, r := range ruleOf(k).reads() {
			reads[r.kind] = append(reads[r.kind], r)
		}
	}
	return reads
}

// Concern says whether a change of an object, whose states are nil where there are none, may change the judgement of
// others.
func (reads Reads) Concern(kind *kinds.Kind, old, new kinds.Object) bool {
	return slices.ContainsFunc(reads[kind], func(r read) bool { return r.wakes == nil || r.wakes(old, new) })
}
