package statefulset

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds/podstatus"
	"lockstep/reconcilers/loop"
	"lockstep/reconcilers/pods"
)

// replica is the place of a pod, by its ordinal.
type replica struct {
	ordinal int
	// pod is nil where there is none; a changed copy where it is adopted or lacks labels.
	pod *corev1.Pod
	// revision is the name of the pod's, or of that which a new one gets.
	revision string
	// creating and dropping are what is decided about it; why says so in words.
	creating, dropping bool
	why                string
	// claims are those that are made for it, or get other owners; supplied says that they have been looked at.
	claims   []loop.Want
	supplied bool
}

// there says that the replica has a pod that nobody has asked to stop.
func (r *replica) there() bool { return r.pod != nil && r.pod.DeletionTimestamp == nil && !r.dropping }

func (r *replica) ended() bool { return podstatus.Finished(&r.pod.Status) }

// leastLife is how long the pod of a replica stays that has failed. One that its node refuses would else be followed by the next as
// fast as it can be stored, for ever.
const leastLife = 5 * time.Second

// young says that a pod which has failed is not replaced yet. What another revision may mend is.
func (r *rollout) young(m *replica) bool {
	until := m.pod.CreationTimestamp.Add(leastLife)
	if m.pod.Status.Phase != corev1.PodFailed || m.revision != r.wanted(m.ordinal) || !until.After(r.now) {
		return false
	}
	if r.again.IsZero() || until.Before(r.again) {
		r.again = until
	}
	return true
}

func (r *replica) ready() bool {
	return r.pod != nil && r.pod.Status.Phase == corev1.PodRunning && podstatus.Ready(&r.pod.Status)
}

// available says that the replica's pod has been ready for long enough, ending or not; where it will be, at is when.
func (r *rollout) available(m *replica) (available bool, at time.Time) {
	if !m.ready() {
		return false, time.Time{}
	}
	return podstatus.Available(&m.pod.Status, time.Duration(r.set.Spec.MinReadySeconds)*time.Second, r.now)
}

// unavailable says that the replica cannot be relied on.
func (r *rollout) unavailable(m *replica) bool {
	available, _ := r.available(m)
	return !available || !m.there()
}

// cut splits a pod's name into those of its set and its ordinal. A name that no set gives is not ok.
func cut(pod string) (set string, ordinal int, ok bool) {
	i := strings.LastIndexByte(pod, '-')
	if i <= 0 {
		return "", 0, false
	}
	n, err := strconv.ParseInt(pod[i+1:], 10, 32)
	return pod[:i], int(n), err == nil && n >= 0 && strconv.FormatInt(n, 10) == pod[i+1:]
}

func ordinalOf(set *appsv1.StatefulSet, p *corev1.Pod) (ordinal int, ok bool) {
	name, ordinal, ok := cut(p.Name)
	return ordinal, ok && name == set.Name
}

func nameOf(set *appsv1.StatefulSet, ordinal int) string {
	return set.Name + "-" + strconv.Itoa(ordinal)
}

// place gives each pod its place: the replicas in order of their ordinals, with those that are missing, and the condemned,
// which are out of that range, the highest ordinal first.
func (r *rollout) place(claims loop.Claims[*corev1.Pod]) {
	r.claims = claims
	r.replicas = make([]*replica, *r.set.Spec.Replicas)
	for i := range r.replicas {
		ordinal := r.start() + i
		r.replicas[i] = &replica{ordinal: ordinal, revision: r.wanted(ordinal), why: "needed"}
	}
	for _, p := range claims.Mine {
		ordinal, ok := ordinalOf(r.set, p)
		if !ok {
			r.strange = append(r.strange, p)
			continue
		}
		m := &replica{ordinal: ordinal, pod: p, revision: p.Labels[appsv1.StatefulSetRevisionLabel], why: "needed"}
		if i := ordinal - r.start(); i >= 0 && i < len(r.replicas) {
			r.replicas[i] = m
		} else {
			r.condemned = append(r.condemned, m)
		}
	}
	slices.SortFunc(r.condemned, func(a, b *replica) int { return cmp.Compare(b.ordinal, a.ordinal) })
}

// identify gives a pod the labels that tell which one it is, and its claims their owners.
func (r *rollout) identify(m *replica) {
	r.retain(m, r.told(corev1.EventTypeNormal, "SuccessfulUpdate", "Update Pod "+m.pod.Name+" in StatefulSet %s successful"))
	labels := identity(m.pod.Name, m.ordinal)
	if m.pod.Labels[appsv1.StatefulSetPodNameLabel] == labels[appsv1.StatefulSetPodNameLabel] {
		return
	}
	if !slices.Contains(r.claims.Adopted, m.pod) {
		m.pod = m.pod.DeepCopy()
	}
	if m.pod.Labels == nil {
		m.pod.Labels = map[string]string{}
	}
	maps.Copy(m.pod.Labels, labels)
	m.why = "its labels do not tell which one it is"
}

func identity(name string, ordinal int) map[string]string {
	return map[string]string{appsv1.StatefulSetPodNameLabel: name, appsv1.PodIndexLabel: strconv.Itoa(ordinal)}
}

// newPod is the pod of a replica that has none.
func (r *rollout) newPod(m *replica) *corev1.Pod {
	template := &r.set.Spec.Template
	if m.revision == r.current.Name && m.revision != r.history.Update.Name {
		template = r.currentTemplate
	}
	p := pods.Of(r.set, template)
	p.Name = nameOf(r.set, m.ordinal)
	p.Labels = maps.Clone(p.Labels)
	if p.Labels == nil {
		p.Labels = map[string]string{}
	}
	maps.Copy(p.Labels, identity(p.Name, m.ordinal))
	p.Labels[appsv1.StatefulSetRevisionLabel] = m.revision
	p.Spec.Hostname = p.Name
	p.Spec.Subdomain = r.set.Spec.ServiceName
	r.mount(p, m.ordinal)
	return p
}
