package statefulset

import (
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// claim is that of a replica by one of the set's templates, or nil where there is none.
func (r *rollout) claim(m *replica, template int) *corev1.PersistentVolumeClaim {
	name := kinds.ReplicaClaim(r.set, r.set.Spec.VolumeClaimTemplates[template].Name, m.ordinal)
	c, ok := view.Get[*corev1.PersistentVolumeClaim](r.view, r.set.Namespace, name)
	if !ok {
		return nil
	}
	return c
}

// existing are the claims that a replica has by the set's templates.
func (r *rollout) existing(m *replica) (claims []*corev1.PersistentVolumeClaim) {
	for i := range r.set.Spec.VolumeClaimTemplates {
		if c := r.claim(m, i); c != nil {
			claims = append(claims, c)
		}
	}
	return claims
}

// supply makes the claims that a replica lacks, and gives those that it has the owners that the retention policy wants. The error says
// why it cannot have them all.
func (r *rollout) supply(m *replica) error {
	m.supplied = true
	var errs []error
	for i := range r.set.Spec.VolumeClaimTemplates {
		switch c := r.claim(m, i); {
		case c == nil:
			m.claims = append(m.claims, r.newClaim(m, i))
		case c.DeletionTimestamp != nil:
			errs = append(errs, fmt.Errorf("pvc %s is being deleted", c.Name))
		}
	}
	if len(errs) > 0 {
		return utilerrors.NewAggregate(errs)
	}
	m.claims = append(m.claims, r.owning(m, nil)...)
	return nil
}

// retain gives the claims of a replica the owners that the retention policy wants, where one has not, and says whether that is so.
func (r *rollout) retain(m *replica, done *loop.Event) (changed bool) {
	if m.supplied || !slices.ContainsFunc(r.existing(m), func(c *corev1.PersistentVolumeClaim) bool {
		_, right := r.owners(c, m)
		return !right
	}) {
		return false
	}
	wants := r.owning(m, done)
	m.claims = append(m.claims, wants...)
	return len(wants) > 0
}

// owning are the claims of a replica that get other owners. What else controls one is told: its owners are left to that.
func (r *rollout) owning(m *replica, done *loop.Event) (wants []loop.Want) {
	for _, c := range r.existing(m) {
		if r.conflicting(c, m) {
			r.events = append(r.events, loop.Event{Type: corev1.EventTypeWarning, Reason: "ConflictingController", Message: fmt.Sprintf(
				"PersistentVolumeClaim %s has a conflicting OwnerReference that acts as a manging controller, the retention policy is "+
					"ignored for this claim", c.Name)})
		}
		refs, right := r.owners(c, m)
		if right {
			continue
		}
		changed := c.DeepCopy()
		changed.OwnerReferences = refs
		wants = append(wants, loop.Want{Object: changed, Reason: "the retention policy of its claims", Done: done})
		done = nil
	}
	return wants
}

func (r *rollout) newClaim(m *replica, template int) loop.Want {
	c := r.set.Spec.VolumeClaimTemplates[template].DeepCopy()
	reason := fmt.Sprintf("ordinal %d has no claim by the template %s", m.ordinal, c.Name)
	c.Name, c.Namespace = kinds.ReplicaClaim(r.set, c.Name, m.ordinal), r.set.Namespace
	if c.Labels == nil {
		c.Labels = map[string]string{}
	}
	maps.Copy(c.Labels, r.set.Spec.Selector.MatchLabels)
	c.OwnerReferences, _ = r.owners(c, m)
	pod := nameOf(r.set, m.ordinal)
	return loop.Want{
		Object: c, Reason: reason,
		Done: r.told(corev1.EventTypeNormal, "SuccessfulCreate", "Create Claim {name} Pod "+pod+" in StatefulSet %s success"),
		Failed: r.told(corev1.EventTypeWarning, failedCreate,
			"Create Claim "+c.Name+" for Pod "+pod+" in StatefulSet %s failed error: {cause}"),
	}
}

// mount gives a pod the claims of its ordinal as volumes, in place of those of the template that have their names.
func (r *rollout) mount(p *corev1.Pod, ordinal int) {
	templates := r.set.Spec.VolumeClaimTemplates
	if len(templates) == 0 {
		return
	}
	volumes := make([]corev1.Volume, 0, len(templates)+len(p.Spec.Volumes))
	for i := range templates {
		claim := &corev1.PersistentVolumeClaimVolumeSource{ClaimName: kinds.ReplicaClaim(r.set, templates[i].Name, ordinal)}
		volumes = append(volumes, corev1.Volume{
			Name: templates[i].Name, VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: claim},
		})
	}
	for _, v := range p.Spec.Volumes {
		if !slices.ContainsFunc(templates, func(c corev1.PersistentVolumeClaim) bool { return c.Name == v.Name }) {
			volumes = append(volumes, v)
		}
	}
	p.Spec.Volumes = volumes
}

// owner is one that a claim may have.
type owner struct {
	kind *kinds.Kind
	name string
	uid  types.UID
}

func (o owner) named(ref metav1.OwnerReference) bool {
	return ref.APIVersion == o.kind.GroupVersion().String() && ref.Kind == o.kind.Kind && ref.Name == o.name
}

func (o owner) of(c *corev1.PersistentVolumeClaim) bool {
	return slices.ContainsFunc(c.OwnerReferences, func(ref metav1.OwnerReference) bool { return ref.UID == o.uid })
}

// stale says that another of that name owns a claim, which goes with that. As in Kubernetes the first of the name counts.
func (o owner) stale(c *corev1.PersistentVolumeClaim) bool {
	i := slices.IndexFunc(c.OwnerReferences, o.named)
	return i >= 0 && c.OwnerReferences[i].UID != o.uid
}

// possible are the owners that a claim of a replica may have: the set, and the replica's pod.
func (r *rollout) possible(m *replica) (set, pod owner) {
	set = owner{kinds.For[*appsv1.StatefulSet](), r.set.Name, r.set.UID}
	pod = owner{kinds.For[*corev1.Pod](), nameOf(r.set, m.ordinal), ""}
	if m.pod != nil {
		pod.uid = m.pod.UID
	}
	return set, pod
}

// stale says that a claim of a replica that has no pod goes with the pod that it had. Until it has gone there is no other.
func (r *rollout) stale(m *replica) bool {
	_, whenScaled := kinds.DeletesClaims(r.set)
	_, pod := r.possible(m)
	return whenScaled && slices.ContainsFunc(r.existing(m), pod.stale)
}

// conflicting says that something else controls a claim which would have owners by the retention policy.
func (r *rollout) conflicting(c *corev1.PersistentVolumeClaim, m *replica) bool {
	if whenDeleted, whenScaled := kinds.DeletesClaims(r.set); !whenDeleted && !whenScaled {
		return false
	}
	set, pod := r.possible(m)
	for _, ref := range c.OwnerReferences {
		if set.named(ref) || pod.named(ref) {
			if ref.UID != set.uid && ref.UID != pod.uid {
				return true
			}
		} else if ref.Controller != nil && *ref.Controller {
			return true
		}
	}
	return false
}

// owners are those that a claim of a replica is to have, and whether they are those that it has. With the set go the claims of its
// replicas, with a pod that is not wanted any more its own, each where the retention policy says so. A claim that goes with another
// set or pod of the name is left as it is.
func (r *rollout) owners(c *corev1.PersistentVolumeClaim, m *replica) (refs []metav1.OwnerReference, right bool) {
	set, pod := r.possible(m)
	if set.stale(c) || pod.stale(c) {
		return c.OwnerReferences, true
	}
	conflicting := r.conflicting(c, m)
	if conflicting && !set.of(c) && !pod.of(c) {
		return c.OwnerReferences, true
	}
	whenDeleted, whenScaled := kinds.DeletesClaims(r.set)
	withPod := whenScaled && !kinds.HasOrdinal(r.set, m.ordinal) && !conflicting
	withSet := whenDeleted && !withPod && !conflicting
	refs = slices.DeleteFunc(slices.Clone(c.OwnerReferences), func(ref metav1.OwnerReference) bool {
		return set.named(ref) || pod.named(ref)
	})
	if withPod && m.pod != nil {
		refs = append(refs, loop.ControllerRef(m.pod))
	}
	if withSet {
		refs = append(refs, loop.ControllerRef(r.set))
	}
	owned := slices.ContainsFunc(c.OwnerReferences, func(ref metav1.OwnerReference) bool { // and not controlled
		return (ref.UID == set.uid || ref.UID == pod.uid) && (ref.Controller == nil || !*ref.Controller)
	})
	return refs, set.of(c) == withSet && pod.of(c) == withPod && !owned
}

// replicasOf maps a claim to the stateful sets that have, or want, one of its name.
func replicasOf(v *view.View, o kinds.Object) (keys []kinds.Key) {
	for set := range view.List[*appsv1.StatefulSet](v, o.GetNamespace()) {
		if _, ok := kinds.ReplicaOfClaim(set, o.GetName()); ok {
			keys = append(keys, kinds.KeyOf(set))
		}
	}
	return keys
}

// ownersChanged says that a claim is new, going or gone, or has other owners.
func ownersChanged(old, new kinds.Object) bool {
	return old == nil || new == nil || (old.GetDeletionTimestamp() == nil) != (new.GetDeletionTimestamp() == nil) ||
		!equality.Semantic.DeepEqual(old.GetOwnerReferences(), new.GetOwnerReferences())
}

// refuse notes why a pod cannot be had; the first is told as a condition.
func (r *rollout) refuse(pod string, cause error) {
	r.events = append(r.events, loop.Event{Type: corev1.EventTypeWarning, Reason: failedCreate, Message: fmt.Sprintf(
		"Create Pod %s in StatefulSet %s failed error: %v", pod, r.set.Name, cause)})
	if r.cannot == nil {
		r.cannot = cause
	}
}
