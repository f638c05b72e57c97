package deployment

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"maps"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/dump"

	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// Kubernetes' annotations (k8s.io/kubernetes/pkg/controller/deployment/util).
const (
	revisionAnnotation = "deployment.kubernetes.io/revision"
	historyAnnotation  = "deployment.kubernetes.io/revision-history"
	desiredAnnotation  = "deployment.kubernetes.io/desired-replicas"
	maxAnnotation      = "deployment.kubernetes.io/max-replicas"
	// historyLength bounds the revision history in characters: about a hundred revisions, as in Kubernetes.
	historyLength = 2000
)

// syncRevision brings the new replica set's annotations, and the deployment's revision, up to date. Where there is no
// new replica set it does nothing.
func (r *rollout) syncRevision() {
	if r.new == nil {
		return
	}
	r.annotate(r.new)
	r.new.Spec.MinReadySeconds = r.d.Spec.MinReadySeconds
	if r.new.reason == "kept: history" {
		r.new.reason = "has the deployment's template"
	}
	r.setRevision(r.new.Annotations[revisionAnnotation])
	if r.hasDeadline() && r.conditions().get(appsv1.DeploymentProgressing) == nil {
		r.conditions().put(appsv1.DeploymentProgressing, corev1.ConditionTrue, "FoundNewReplicaSet",
			fmt.Sprintf("Found new replica set %q", r.new.Name))
	}
}

// createNew adds the new replica set where there is none. Where its name is taken by another one, it counts a collision
// instead, which gives the next decision another name, and returns false.
func (r *rollout) createNew() bool {
	if r.new != nil {
		r.syncRevision()
		return true
	}
	template := r.d.Spec.Template.DeepCopy()
	hash := templateHash(template, r.d.Status.CollisionCount)
	name := setName(r.d.Name, hash)
	if _, taken := view.Get[*appsv1.ReplicaSet](r.view, r.d.Namespace, name); taken {
		collisions := int32(1)
		if r.d.Status.CollisionCount != nil {
			collisions = *r.d.Status.CollisionCount + 1
		}
		r.d.Status.CollisionCount = &collisions
		return false
	}
	template.Labels = withLabel(template.Labels, hash)
	selector := r.d.Spec.Selector.DeepCopy()
	selector.MatchLabels = withLabel(selector.MatchLabels, hash)
	s := &set{
		ReplicaSet: &appsv1.ReplicaSet{
			ObjectMeta: metav1.ObjectMeta{
				Namespace:       r.d.Namespace,
				Name:            name,
				Labels:          template.Labels,
				OwnerReferences: []metav1.OwnerReference{loop.ControllerRef(r.was)},
			},
			Spec: appsv1.ReplicaSetSpec{
				Replicas:        new(int32),
				MinReadySeconds: r.d.Spec.MinReadySeconds,
				Selector:        selector,
				Template:        *template,
			},
		},
		reason: "new template",
		failed: &loop.Event{
			Type: corev1.EventTypeWarning, Reason: "ReplicaSetCreateError",
			Message: fmt.Sprintf("Failed to create new replica set %q: {cause}", name),
		},
	}
	r.new, r.creating = s, true
	size := r.newSize()
	s.Spec.Replicas = &size
	r.annotate(s)
	annotateSizes(s.ReplicaSet, r.desired(), r.desired()+r.maxSurge())
	if size > 0 {
		s.event = scaledEvent("up", name, 0, size)
	}
	r.setRevision(s.Annotations[revisionAnnotation])
	if r.hasDeadline() {
		r.conditions().put(appsv1.DeploymentProgressing, corev1.ConditionTrue, "NewReplicaSetCreated",
			fmt.Sprintf("Created new replica set %q", name))
	}
	return true
}

// annotate copies the deployment's annotations to its new replica set and numbers the set one above all old ones; a
// number it had before goes to its history.
func (r *rollout) annotate(s *set) {
	if s.Annotations == nil {
		s.Annotations = map[string]string{}
	}
	for k, v := range r.d.Annotations {
		if !ownAnnotation(k) {
			s.Annotations[k] = v
		}
	}
	latest := int64(0)
	for _, old := range r.old {
		if revision, ok := revisionOf(old.ReplicaSet); ok {
			latest = max(latest, revision)
		}
	}
	number, ok := revisionOf(s.ReplicaSet)
	if !ok || number > latest {
		return
	}
	if before, had := s.Annotations[revisionAnnotation]; had {
		s.Annotations[historyAnnotation] = withHistory(s.Annotations[historyAnnotation], before)
	}
	s.Annotations[revisionAnnotation] = strconv.FormatInt(latest+1, 10)
}

// withHistory appends a revision to a comma-separated history and drops the oldest ones past historyLength.
func withHistory(history, revision string) string {
	if history == "" {
		return revision
	}
	history += "," + revision
	for len(history) > historyLength {
		_, rest, more := strings.Cut(history, ",")
		if !more {
			break
		}
		history = rest
	}
	return history
}

// ownAnnotation says that an annotation of a deployment is not its replica sets'.
func ownAnnotation(key string) bool {
	switch key {
	case revisionAnnotation, historyAnnotation, desiredAnnotation, maxAnnotation, corev1.LastAppliedConfigAnnotation,
		appsv1.DeprecatedRollbackTo:
		return true
	}
	return false
}

// revisionOf reads a set's number; 0 where it has none, not ok where it is no number.
func revisionOf(rs *appsv1.ReplicaSet) (revision int64, ok bool) {
	text := rs.Annotations[revisionAnnotation]
	if text == "" {
		return 0, true
	}
	revision, err := strconv.ParseInt(text, 10, 64)
	return revision, err == nil
}

func (r *rollout) setRevision(revision string) {
	if r.d.Annotations[revisionAnnotation] == revision {
		return
	}
	if r.d.Annotations == nil {
		r.d.Annotations = map[string]string{}
	}
	r.d.Annotations[revisionAnnotation] = revision
}

func annotateSizes(rs *appsv1.ReplicaSet, desired, most int32) {
	if rs.Annotations == nil {
		rs.Annotations = map[string]string{}
	}
	rs.Annotations[desiredAnnotation] = strconv.Itoa(int(desired))
	rs.Annotations[maxAnnotation] = strconv.Itoa(int(most))
}

// annotatedSize reads a size that annotateSizes wrote.
func annotatedSize(rs *appsv1.ReplicaSet, key string) (int32, bool) {
	n, err := strconv.ParseInt(rs.Annotations[key], 10, 32)
	return int32(n), err == nil && n >= 0
}

// templateHash names a template. It is Kubernetes' hash, so that names look alike; nothing relies on it.
func templateHash(t *corev1.PodTemplateSpec, collisions *int32) string {
	h := fnv.New32a()
	fmt.Fprintf(h, "%v", dump.ForHash(*t))
	if collisions != nil {
		count := make([]byte, 8)
		binary.LittleEndian.PutUint32(count, uint32(*collisions))
		h.Write(count)
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10))
}

func setName(deployment, hash string) string {
	if most := validation.DNS1123SubdomainMaxLength - 1 - len(hash); len(deployment) > most {
		deployment = deployment[:most]
	}
	return deployment + "-" + hash
}

func withLabel(labels map[string]string, hash string) map[string]string {
	labels = maps.Clone(labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	return labels
}
