package deployment

import (
	"cmp"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"lockstep/kinds/podstatus"
)

// roll makes the next step of a rolling update: up, or down, or neither.
func (r *rollout) roll() {
	if !r.createNew() {
		return
	}
	if !r.creating && r.resize(r.new, r.newSize(), false) {
		r.syncRollout()
		return
	}
	if r.shrinkOld() {
		r.syncRollout()
		return
	}
	if r.complete(&r.d.Status) {
		r.dropHistory()
	}
	r.syncRollout()
}

// newSize is how large the new replica set may be now.
func (r *rollout) newSize() int32 {
	if r.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType || r.new.size() > r.desired() {
		return r.desired()
	}
	room := r.desired() + r.maxSurge() - total(r.all(), (*set).size)
	if room <= 0 {
		return r.new.size()
	}
	return r.new.size() + min(room, r.desired()-r.new.size())
}

// available is how many of a set's pods can be relied on. A set that was just made smaller may still report more than
// it is going to keep.
func (s *set) available() int32 { return min(s.Status.AvailableReplicas, s.size()) }

// shrinkOld takes from old replica sets first what is of no use, then as much as the new one's pods make up for.
func (r *rollout) shrinkOld() (shrunk bool) {
	if total(r.old, (*set).size) == 0 {
		return false
	}
	least := r.desired() - r.maxUnavailable()
	spare := total(r.all(), (*set).size) - least - (r.new.size() - r.new.available())
	if spare <= 0 {
		return false
	}
	surplus := total(r.all(), (*set).available) - least
	for _, s := range r.old {
		if useless := min(spare, s.size()-s.available()); useless > 0 {
			r.resize(s, s.size()-useless, false)
			spare -= useless
			shrunk = true
		}
	}
	for _, s := range r.old {
		if part := min(surplus, s.size()); part > 0 {
			r.resize(s, s.size()-part, false)
			surplus -= part
			shrunk = true
		}
	}
	return shrunk
}

// recreate makes the next step of an update that ends all old pods before it starts new ones.
func (r *rollout) recreate() {
	r.syncRevision()
	shrunk := false
	for _, s := range active(r.old) {
		shrunk = r.resize(s, 0, false) || shrunk
	}
	if shrunk || r.oldRunning() {
		r.syncRollout()
		return
	}
	if !r.createNew() {
		return
	}
	if !r.creating {
		r.resize(r.new, r.desired(), false)
	}
	if r.complete(&r.d.Status) {
		r.dropHistory()
	}
	r.syncRollout()
}

// oldRunning says that a pod of an old replica set has not ended.
func (r *rollout) oldRunning() bool {
	for _, s := range r.old {
		if s.Status.Replicas > 0 {
			return true
		}
		for o := range r.view.Controlled(s.UID) {
			if p, ok := o.(*corev1.Pod); ok && !podstatus.Finished(&p.Status) {
				return true
			}
		}
	}
	return false
}

// dropHistory drops the oldest replica sets that are empty, past the history limit.
func (r *rollout) dropHistory() {
	if !limited(r.d.Spec.RevisionHistoryLimit) {
		return
	}
	sets := slices.DeleteFunc(slices.Clone(r.old), func(s *set) bool { return s.DeletionTimestamp != nil })
	surplus := len(sets) - int(*r.d.Spec.RevisionHistoryLimit)
	if surplus <= 0 {
		return
	}
	slices.SortStableFunc(sets, func(a, b *set) int {
		m, mok := revisionOf(a.ReplicaSet)
		n, nok := revisionOf(b.ReplicaSet)
		if !mok || !nok {
			m, n = 0, 0
		}
		return cmp.Or(cmp.Compare(m, n), byAge(a.ReplicaSet, b.ReplicaSet))
	})
	for _, s := range sets[:surplus] {
		if s.Status.Replicas == 0 && s.size() == 0 && s.Generation <= s.Status.ObservedGeneration {
			s.drop, s.reason = true, "past the revision history limit"
		}
	}
}

func (r *rollout) maxSurge() int32 {
	surge, _ := r.fenceposts()
	return surge
}

func (r *rollout) maxUnavailable() int32 {
	_, unavailable := r.fenceposts()
	return unavailable
}

// fenceposts resolves how many pods a rolling update may have above the desired number, and how many of it may be
// missing. Percentages are rounded up, and down; both cannot be zero.
func (r *rollout) fenceposts() (surge, unavailable int32) {
	rolling := r.d.Spec.Strategy.RollingUpdate
	if r.d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType || rolling == nil {
		return 0, 0
	}
	surge = scaled(rolling.MaxSurge, r.desired(), true)
	unavailable = scaled(rolling.MaxUnavailable, r.desired(), false)
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, min(unavailable, r.desired())
}

// scaled resolves a number or percentage; what is not stated, or cannot be read, is 0: validation refuses the latter.
func scaled(value *intstr.IntOrString, of int32, up bool) int32 {
	n, err := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(value, intstr.FromInt32(0)), int(of), up)
	if err != nil {
		return 0
	}
	return int32(n)
}
