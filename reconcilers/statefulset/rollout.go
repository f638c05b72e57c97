package statefulset

import (
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/reconcilers/revisions"
	"lockstep/store/view"
)

// burst bounds how many pods one decision creates or deletes: Kubernetes' MaxBatchSize.
const burst = 500

// rollout is one decision in the making.
type rollout struct {
	view *view.View
	set  *appsv1.StatefulSet
	now  time.Time

	history revisions.History
	// current is the revision that the last finished rollout gave to all pods, with its template where that is not the set's.
	current         *appsv1.ControllerRevision
	currentTemplate *corev1.PodTemplateSpec

	claims    loop.Claims[*corev1.Pod]
	replicas  []*replica
	condemned []*replica
	strange   []*corev1.Pod // under no name that the set gives

	cannot  error        // why the first pod that cannot be had cannot
	events  []loop.Event // of pods that cannot be had, and of claims that something else controls
	writes  int          // pods that are created or dropped
	retired int32        // pods of the current revision that are dropped for the update
	again   time.Time    // when the next pod that has failed is to be replaced; zero: there is none
}

func (r *rollout) findRevisions() (err error) {
	r.current = r.history.Named(r.set.Status.CurrentRevision)
	if r.current == nil || r.current == r.history.Update {
		r.current = r.history.Update
		return nil
	}
	r.currentTemplate, err = revisions.Template(r.current)
	return err
}

func (r *rollout) ordered() bool {
	return r.set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement
}

func (r *rollout) rolling() bool {
	return r.set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType
}

// start is the lowest ordinal.
func (r *rollout) start() int {
	first, _ := kinds.Ordinals(r.set)
	return first
}

// partition is how many of the lowest replicas stay at the current revision.
func (r *rollout) partition() int {
	u := r.set.Spec.UpdateStrategy.RollingUpdate
	if !r.rolling() || u == nil || u.Partition == nil {
		return 0
	}
	return int(*u.Partition)
}

// maxUnavailable is how many replicas an update may have unavailable: one at least. A percentage is rounded down.
func (r *rollout) maxUnavailable() int {
	u := r.set.Spec.UpdateStrategy.RollingUpdate
	if u == nil {
		return 1
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(u.MaxUnavailable, intstr.FromInt32(1)), len(r.replicas), false)
	if err != nil {
		return 1 // validation refuses what cannot be read
	}
	return max(1, n)
}

// wanted names the revision that the replica of an ordinal is to have.
func (r *rollout) wanted(ordinal int) string {
	if ordinal < r.start()+r.partition() {
		return r.current.Name
	}
	return r.history.Update.Name
}

// advance decides the next step. With ordered replicas each one waits for those below it, with parallel ones none does.
func (r *rollout) advance() {
	if !r.fill() {
		return
	}
	if !r.shrink() {
		return
	}
	if r.rolling() {
		r.roll()
	}
}

// fill makes the replicas that are missing, and says whether the next part of the decision may follow.
func (r *rollout) fill() bool {
	for _, m := range r.replicas {
		if m.pod != nil && m.pod.Status.Phase == corev1.PodPending {
			_ = r.supply(m) // the pod waits, and says for which claim
		}
		switch {
		case m.pod == nil:
			r.create(m)
			if r.ordered() {
				return false
			}
		case m.ended():
			if !r.young(m) {
				r.drop(m, "it has ended, and its place is wanted")
			}
			if r.ordered() {
				return false
			}
		case !r.ordered():
			r.identify(m)
		case !m.there():
			return false
		case !m.ready():
			if r.hopeless(m) {
				r.replace(m, "it is not ready, and its revision is not wanted any more")
			}
			return false
		case r.unavailable(m):
			return false
		default:
			r.identify(m)
		}
	}
	return true
}

// shrink drops the condemned, and says whether the next part of the decision may follow. Claims that go with them are theirs before
// they go.
func (r *rollout) shrink() bool {
	right := true
	for _, m := range r.condemned {
		if r.retain(m, nil) {
			right = false
		}
	}
	if !right {
		return false
	}
	for i, m := range r.condemned {
		if r.ordered() && r.unavailable(m) && slices.ContainsFunc(r.condemned[i+1:], r.unavailable) {
			return false // As Kubernetes: a pod that does not work is ended only where those below it do.
		}
		r.drop(m, fmt.Sprintf("ordinal %d is not wanted: %s", m.ordinal, r.wantedOrdinals()))
		if r.ordered() {
			return false
		}
	}
	return true
}

func (r *rollout) wantedOrdinals() string {
	switch n := len(r.replicas); n {
	case 0:
		return "no replicas"
	case 1:
		return fmt.Sprintf("only %d is", r.start())
	default:
		return fmt.Sprintf("only %d to %d are", r.start(), r.start()+n-1)
	}
}

// roll drops pods of other revisions, the highest ordinal first, as far as replicas may be unavailable. Of parallel replicas
// those go first that are not available anyway.
func (r *rollout) roll() {
	room := r.maxUnavailable()
	for _, m := range r.replicas {
		if r.unavailable(m) {
			room--
		}
	}
	updating := r.replicas[min(r.partition(), len(r.replicas)):]
	for _, m := range slices.Backward(updating) {
		if !r.ordered() && r.outdated(m) && r.unavailable(m) {
			r.replace(m, "the template has changed, and it is not available")
		}
	}
	for _, m := range slices.Backward(updating) {
		if room > 0 && r.outdated(m) && m.there() {
			r.replace(m, "the template has changed")
			room--
		}
	}
}

func (r *rollout) outdated(m *replica) bool {
	return m.pod != nil && m.pod.DeletionTimestamp == nil && m.revision != r.wanted(m.ordinal)
}

// hopeless says that a replica is not ready at a revision that is not wanted any more, while what is wanted has not failed
// anywhere: no other replica is ending, or not available at the new revision. To wait for such a one, as Kubernetes does where
// replicas are ordered, would be to wait for what nobody wants: a rollout that a broken template has stopped would not go on
// with one that is mended.
func (r *rollout) hopeless(m *replica) bool {
	return r.rolling() && r.outdated(m) && !slices.ContainsFunc(r.replicas, func(other *replica) bool {
		return other != m && other.pod != nil && r.unavailable(other) &&
			(!other.there() || other.revision == r.history.Update.Name)
	})
}

// create wants the pod of a replica, unless something else has its name: then there is none until that is gone, whatever keeps
// it, a silent node for example.
func (r *rollout) create(m *replica) {
	name := nameOf(r.set, m.ordinal)
	if other, taken := view.Get[*corev1.Pod](r.view, r.set.Namespace, name); taken {
		if other.DeletionTimestamp == nil {
			r.refuse(name, fmt.Errorf("pods %q already exists", name))
		}
		return
	}
	if r.stale(m) {
		return
	}
	if err := r.supply(m); err != nil {
		r.refuse(name, err)
		return
	}
	if r.writes < burst {
		r.writes++
		m.creating = true
	}
}

func (r *rollout) drop(m *replica, why string) {
	if m.there() && r.writes < burst {
		r.writes++
		m.dropping, m.why = true, why
	}
}

// replace drops a pod for which another of the wanted revision will be made.
func (r *rollout) replace(m *replica, why string) {
	r.drop(m, why)
	if m.dropping && m.revision == r.current.Name {
		r.retired++
	}
}

func (r *rollout) decision() loop.Decision {
	d := loop.Decision{}
	d.Wants, d.Drops = r.history.Plan(r.set.Spec.RevisionHistoryLimit, func(name string) bool {
		return name == r.current.Name || slices.ContainsFunc(r.claims.Mine, func(p *corev1.Pod) bool {
			return p.Labels[appsv1.StatefulSetRevisionLabel] == name
		})
	})
	d.Wants = append(d.Wants, r.claims.Releases()...)
	d.Wants = append(d.Wants, loop.Keep("under no name of the set", append(r.claims.Kept, r.strange...)...)...)
	for _, m := range slices.Concat(r.replicas, r.condemned) {
		d.Wants = append(d.Wants, m.claims...)
		switch {
		case m.dropping:
			drop := loop.DropOf(m.pod, m.why)
			drop.Done = r.told(corev1.EventTypeNormal, "SuccessfulDelete", "Delete Pod {name} in StatefulSet %s successful")
			d.Drops = append(d.Drops, drop)
		case m.creating:
			d.Wants = append(d.Wants, loop.Want{
				Object: r.newPod(m), Reason: fmt.Sprintf("ordinal %d is missing", m.ordinal),
				Done: r.told(corev1.EventTypeNormal, "SuccessfulCreate", "Create Pod {name} in StatefulSet %s successful"),
				Failed: r.told(corev1.EventTypeWarning, failedCreate,
					"Create Pod "+nameOf(r.set, m.ordinal)+" in StatefulSet %s failed error: {cause}"),
			})
		case m.pod != nil:
			d.Wants = append(d.Wants, r.keep(m))
		}
	}
	status, again := r.status()
	if d.Again = again; again.IsZero() || !r.again.IsZero() && r.again.Before(again) {
		d.Again = r.again
	}
	d.Status = withStatus(r.set, status, r.cannot, r.now)
	d.IfRefused = func(cause error) kinds.Object { return withStatus(r.set, status, cause, r.now) }
	d.Events = r.events
	return d
}

// keep wants a pod as it is, or with what it lacks.
func (r *rollout) keep(m *replica) loop.Want {
	w := loop.Want{Object: m.pod, Reason: m.why}
	switch {
	case slices.Contains(r.claims.Adopted, m.pod):
		w.Reason = "adopted: the selector matches"
	case m.why != "needed":
		w.Done = r.told(corev1.EventTypeNormal, "SuccessfulUpdate", "Update Pod {name} in StatefulSet %s successful")
		w.Failed = r.told(corev1.EventTypeWarning, "FailedUpdate", "Update Pod "+m.pod.Name+" in StatefulSet %s failed error: {cause}")
	case !m.there():
		w.Reason = "ending"
	}
	return w
}

func (r *rollout) told(kind, reason, message string) *loop.Event {
	return &loop.Event{Type: kind, Reason: reason, Message: fmt.Sprintf(message, r.set.Name)}
}
