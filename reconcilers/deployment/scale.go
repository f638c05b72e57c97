package deployment

import (
	"cmp"
	"math"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
)

// scaling says that the deployment was scaled: an active replica set notes another desired size.
func (r *rollout) scaling() bool {
	return slices.ContainsFunc(active(r.all()), func(s *set) bool {
		desired, ok := annotatedSize(s.ReplicaSet, desiredAnnotation)
		return ok && desired != r.desired()
	})
}

// scale spreads a new size over the replica sets without going on with the rollout.
func (r *rollout) scale() {
	if s := r.onlyActive(); s != nil {
		r.resize(s, r.desired(), false)
		return
	}
	switch {
	case r.saturated():
		for _, s := range active(r.old) {
			r.resize(s, 0, false)
		}
	case r.d.Spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType:
		r.scaleInProportion()
	}
}

// onlyActive returns the one active replica set; where none is active, the newest; nil where several are, or none is
// there at all.
func (r *rollout) onlyActive() *set {
	switch sets := active(r.all()); {
	case len(sets) == 1:
		return sets[0]
	case len(sets) > 1:
		return nil
	case r.new != nil:
		return r.new
	case len(r.old) > 0:
		return r.old[len(r.old)-1]
	}
	return nil
}

// saturated says that the new replica set is all that is needed.
func (r *rollout) saturated() bool {
	if r.new == nil {
		return false
	}
	desired, ok := annotatedSize(r.new.ReplicaSet, desiredAnnotation)
	return ok && desired == r.desired() && r.new.size() == r.desired() && r.new.Status.AvailableReplicas == r.desired()
}

// scaleInProportion gives each active set its part of the change, the larger ones first, and what rounding leaves over
// to the largest: during a rollout that is stuck, scaling up mostly the new template would make things worse.
func (r *rollout) scaleInProportion() {
	sets := active(r.all())
	allowed := int32(0)
	if r.desired() > 0 {
		allowed = r.desired() + r.maxSurge()
	}
	change := allowed - total(sets, (*set).size)
	slices.SortStableFunc(sets, func(a, b *set) int {
		age := byAge(a.ReplicaSet, b.ReplicaSet)
		if change > 0 {
			age = -age
		}
		return cmp.Or(cmp.Compare(b.size(), a.size()), age)
	})
	sizes := make([]int32, len(sets))
	left := change
	for i, s := range sets {
		part := r.proportion(s, left)
		sizes[i] = s.size() + part
		left -= part
	}
	for i, s := range sets {
		if i == 0 {
			sizes[i] = max(0, sizes[i]+left)
		}
		r.resize(s, sizes[i], true)
	}
}

// proportion is a set's part of a change of which left is still to be given; it has left's sign, or is zero.
func (r *rollout) proportion(s *set, left int32) int32 {
	if left == 0 {
		return 0
	}
	part := -s.size()
	if r.desired() > 0 {
		before, ok := annotatedSize(s.ReplicaSet, maxAnnotation)
		if !ok || before == 0 {
			before = r.d.Status.Replicas
		}
		if before == 0 {
			return 0
		}
		after := float64(s.size()) * float64(r.desired()+r.maxSurge()) / float64(before)
		part = int32(math.Round(after)) - s.size()
	}
	if left > 0 {
		return min(part, left)
	}
	return max(part, left)
}
