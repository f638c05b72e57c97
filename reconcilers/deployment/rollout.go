package deployment

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// rollout is one decision in the making. It works on copies: of the deployment, whose status it changes as it goes, and
// of each replica set.
type rollout struct {
	view *view.View
	now  time.Time
	was  *appsv1.Deployment // as in the view
	d    *appsv1.Deployment

	new    *set   // the one with the deployment's template; nil: there is none
	old    []*set // all others, the oldest first
	others []loop.Want
	again  time.Time
	// creating says that new is not in the view.
	creating bool
}

// set is a replica set and what is decided about it.
type set struct {
	*appsv1.ReplicaSet
	reason string
	event  *loop.Event
	failed *loop.Event
	drop   bool
}

func newRollout(v *view.View, d *appsv1.Deployment, claims loop.Claims[*appsv1.ReplicaSet], now time.Time) *rollout {
	r := &rollout{view: v, now: now, was: d, d: d.DeepCopy()}
	r.others = append(claims.Releases(), loop.Keep("going away", claims.Kept...)...)
	for _, rs := range slices.SortedFunc(slices.Values(claims.Mine), byAge) {
		s := &set{ReplicaSet: rs.DeepCopy(), reason: "kept: history"}
		if slices.Contains(claims.Adopted, rs) {
			s.reason = "adopted: the selector matches"
		}
		// The oldest with the template is the new one, should there be several.
		if r.new == nil && sameTemplate(&rs.Spec.Template, &d.Spec.Template) {
			r.new = s
			continue
		}
		r.old = append(r.old, s)
	}
	return r
}

func byAge(a, b *appsv1.ReplicaSet) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

// sameTemplate compares templates without the label pod-template-hash, which replica sets add to theirs.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	bare := func(t *corev1.PodTemplateSpec) *corev1.PodTemplateSpec {
		c := *t
		c.Labels = map[string]string{}
		for k, v := range t.Labels {
			if k != appsv1.DefaultDeploymentUniqueLabelKey {
				c.Labels[k] = v
			}
		}
		return &c
	}
	return equality.Semantic.DeepEqual(bare(a), bare(b))
}

// all returns every replica set, the new one last.
func (r *rollout) all() []*set {
	if r.new == nil {
		return slices.Clone(r.old)
	}
	return append(slices.Clone(r.old), r.new)
}

// active returns the sets of the list that want pods.
func active(sets []*set) []*set {
	return slices.DeleteFunc(slices.Clone(sets), func(s *set) bool { return s.size() == 0 })
}

func (s *set) size() int32 { return *s.Spec.Replicas }

func total(sets []*set, count func(*set) int32) (sum int32) {
	for _, s := range sets {
		sum += count(s)
	}
	return sum
}

// desired is how many pods the deployment wants.
func (r *rollout) desired() int32 { return *r.d.Spec.Replicas }

// resize changes the size of a set, and notes in its annotations what it was a part of. Without force, a set of the
// right size is left alone.
func (r *rollout) resize(s *set, size int32, force bool) (resized bool) {
	before := s.size()
	if before == size && !force {
		return false
	}
	annotateSizes(s.ReplicaSet, r.desired(), r.desired()+r.maxSurge())
	if before == size {
		return false
	}
	s.Spec.Replicas = &size
	direction := "up"
	if size < before {
		direction = "down"
	}
	s.reason = fmt.Sprintf("scaled %s from %d to %d", direction, before, size)
	s.event = scaledEvent(direction, s.Name, r.sizeInView(s), size)
	return true
}

// sizeInView is the size a set had before this decision.
func (r *rollout) sizeInView(s *set) int32 {
	if rs, ok := view.Get[*appsv1.ReplicaSet](r.view, s.Namespace, s.Name); ok && rs.UID == s.UID {
		return *rs.Spec.Replicas
	}
	return 0
}

func scaledEvent(direction, name string, from, to int32) *loop.Event {
	return &loop.Event{
		Type: corev1.EventTypeNormal, Reason: "ScalingReplicaSet",
		Message: fmt.Sprintf("Scaled %s replica set %s from %d to %d", direction, name, from, to),
	}
}

// decision turns the rollout into what the engine carries out.
func (r *rollout) decision() loop.Decision {
	d := loop.Decision{Wants: r.others, Again: r.again}
	for _, s := range r.all() {
		if s.drop {
			d.Drops = append(d.Drops, loop.DropOf(s.ReplicaSet, s.reason))
			continue
		}
		d.Wants = append(d.Wants, loop.Want{Object: s.ReplicaSet, Reason: s.reason, Done: s.event, Failed: s.failed})
	}
	if !equality.Semantic.DeepEqual(r.was.Status, r.d.Status) ||
		r.was.Annotations[revisionAnnotation] != r.d.Annotations[revisionAnnotation] {
		d.Status = r.d
	}
	if r.creating {
		d.IfRefused = r.refused
	}
	return d
}

// refused is the status when the new replica set could not be created.
func (r *rollout) refused(cause error) kinds.Object {
	if !r.hasDeadline() {
		return nil
	}
	d := r.was.DeepCopy()
	set := conditions{&d.Status, r.now}
	set.put(appsv1.DeploymentProgressing, corev1.ConditionFalse, "ReplicaSetCreateError",
		fmt.Sprintf("Failed to create new replica set %q: %v", r.new.Name, cause))
	return d
}
