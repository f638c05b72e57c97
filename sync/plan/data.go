package plan

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"

	"lockstep/kinds"
	"lockstep/store/view"
)

// maxClaims bounds how many claims a hold names: with the longest names they fill a line of a terminal some ten times.
const maxClaims = 8

// loss is a claim that goes with its data, or a volume that no claim has.
type loss struct {
	claim kinds.Key
	// with is what it goes with: itself, its namespace, the StatefulSet that has it by a template, or the autoscaler that kept that large.
	with *Desired
}

func (l loss) volume() bool { return l.claim.Namespace == "" }

func (l loss) String() string {
	text := l.claim.Namespace + "/" + l.claim.Name
	if l.volume() {
		text = l.claim.Name
	}
	if l.with.Key != l.claim {
		text += " of " + l.with.Key.String()
	}
	return text + " (" + l.with.Place() + ")"
}

// claimsOf lists losses behind a sentence.
func claimsOf(data []loss) string {
	texts := make([]string, 0, maxClaims+1)
	for i, l := range data {
		if i == maxClaims {
			texts = append(texts, fmt.Sprintf("%d more", len(data)-maxClaims))
			break
		}
		texts = append(texts, l.String())
	}
	if len(texts) == 0 {
		return ""
	}
	return ": " + strings.Join(texts, ", ")
}

// countOf says how many claims and volumes there are.
func countOf(data []loss) string {
	volumes := 0
	for _, l := range data {
		if l.volume() {
			volumes++
		}
	}
	switch claims := len(data) - volumes; {
	case volumes == 0:
		return count(claims, "claim")
	case claims == 0:
		return count(volumes, "volume")
	default:
		return count(claims, "claim") + " and " + count(volumes, "volume")
	}
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// data are the claims whose data the revision would have deleted, by key: bound ones whose volume is to be deleted with them, which
// it no longer states, which are in a namespace that it no longer states, or which a StatefulSet does not keep when it goes, or gets
// smaller. What an earlier revision has removed already does not count, and neither do claims that live as long as one pod. Volumes
// that no claim has are among them where a node deletes their data with them.
func (d *decision) data(steps []Step, then *after) []loss {
	lost := map[kinds.Key]*Desired{}
	for i := range steps {
		s := &steps[i]
		if s.Drift || s.Verb != Prune && s.Verb != Update || !d.asks(&s.Entry) {
			continue
		}
		if other, ok := d.unscaledElsewhere(s, then); ok {
			s = &other
		}
		if pv, ok := s.Live.(*corev1.PersistentVolume); ok && s.Verb == Prune && deletesContent(pv, then.view) {
			lost[s.Key] = &s.Entry
		}
		for c := range view.List[*corev1.PersistentVolumeClaim](then.view, claimsIn(s.Key)) {
			key := kinds.KeyOf(c)
			if goesWith(s, c, then.view) && then.deletesDataOf(c) && (lost[key] == nil || s.Key == key) {
				lost[key] = &s.Entry
			}
		}
	}
	out := make([]loss, 0, len(lost))
	for key, with := range lost {
		out = append(out, loss{claim: key, with: with})
	}
	slices.SortFunc(out, func(a, b loss) int { return compare(a.claim, b.claim) })
	return out
}

// unscaledElsewhere is what becomes of a StatefulSet of another source whose autoscaler a step takes away: it gets the size that is
// stated there. The entry is the autoscaler's.
func (d *decision) unscaledElsewhere(s *Step, then *after) (Step, bool) {
	h, ok := s.Live.(*autoscalingv2.HorizontalPodAutoscaler)
	if !ok {
		return Step{}, false
	}
	target, ok := kinds.ScaleTarget(h)
	live, isSet := then.view.Get(target).(*appsv1.StatefulSet)
	if !ok || !isSet || len(then.scalers()[target]) > 0 {
		return Step{}, false
	}
	for _, other := range d.in.Others {
		row, there, err := Inventory.Get(then.view, other+"/"+target.Path())
		if !there || err != nil || row.Value.State == Pruning {
			continue
		}
		o, err := decode(target, row.Value.Object)
		if stated, ok := o.(*appsv1.StatefulSet); ok && err == nil && stated.Spec.Replicas != nil {
			changed := live.DeepCopy()
			changed.Spec.Replicas = stated.Spec.Replicas
			return Step{Verb: Update, Key: target, Live: live, Object: changed, Entry: s.Entry}, true
		}
	}
	return Step{}, false
}

// asks says that an entry asks for something that no earlier revision did.
func (d *decision) asks(entry *Desired) bool {
	i, had := d.before[entry.Key]
	switch {
	case !had, entry.State == Applied:
		return true
	case entry.State == Pruning:
		return d.in.Inventory[i].State != Pruning
	}
	return !bytes.Equal(d.in.Inventory[i].Object, entry.Object)
}

// claimsIn is the namespace of the claims that a step may have to do with; one that no object can have: none.
func claimsIn(k kinds.Key) string {
	switch kinds.ForResource(k.GroupResource()) {
	case kinds.For[*corev1.Namespace]():
		return k.Name
	case kinds.For[*corev1.PersistentVolumeClaim](), kinds.For[*appsv1.StatefulSet]():
		return k.Namespace
	}
	return "-"
}

// goesWith says that a step has a claim removed.
func goesWith(s *Step, c *corev1.PersistentVolumeClaim, v *view.View) bool {
	switch o := s.Live.(type) {
	case *corev1.PersistentVolumeClaim:
		return s.Verb == Prune && s.Key == kinds.KeyOf(c)
	case *corev1.Namespace:
		return s.Verb == Prune && !ephemeral(c)
	case *appsv1.StatefulSet:
		if s.Verb == Prune {
			whenDeleted, _ := kinds.DeletesClaims(o)
			return !kinds.Orphans(o) && (owns(o, c) || whenDeleted && replicaHas(o, c, v))
		}
		changed := s.Object.(*appsv1.StatefulSet)
		_, whenScaled := kinds.DeletesClaims(changed)
		ordinal, _ := kinds.ReplicaOfClaim(o, c.Name)
		return whenScaled && !kinds.HasOrdinal(changed, ordinal) && replicaHas(o, c, v)
	}
	return false
}

// ephemeral says that a claim is of one pod, and goes with it.
func ephemeral(c *corev1.PersistentVolumeClaim) bool {
	ref := metav1.GetControllerOfNoCopy(c)
	return ref != nil && ref.Kind == "Pod"
}

func owns(set *appsv1.StatefulSet, c *corev1.PersistentVolumeClaim) bool {
	return slices.ContainsFunc(c.OwnerReferences, func(ref metav1.OwnerReference) bool { return ref.UID == set.UID })
}

// replicaHas says that a claim is of a replica that the set has, or of which there is a pod: a set removes no others.
func replicaHas(set *appsv1.StatefulSet, c *corev1.PersistentVolumeClaim, v *view.View) bool {
	ordinal, ok := kinds.ReplicaOfClaim(set, c.Name)
	if !ok {
		return false
	}
	if kinds.HasOrdinal(set, ordinal) {
		return true
	}
	_, pod := view.Get[*corev1.Pod](v, set.Namespace, fmt.Sprintf("%s-%d", set.Name, ordinal))
	return pod
}

// deletesContent says that a node, or a CSI driver, deletes the data of a volume once that is removed. Of one that a claim has they stay
// until the claim goes.
func deletesContent(pv *corev1.PersistentVolume, v *view.View) bool {
	node := kinds.LocalPathOf(pv) != "" && slices.Contains(pv.Finalizers, kinds.LocalPath)
	if !node && !kinds.CSIDeletes(pv) || pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
		return false
	}
	ref := pv.Spec.ClaimRef
	if ref == nil {
		return true
	}
	c, there := view.Get[*corev1.PersistentVolumeClaim](v, ref.Namespace, ref.Name)
	return !there || c.UID != ref.UID
}

// deletesDataOf says that with a claim goes its volume. One that has none has no data.
func (a *after) deletesDataOf(c *corev1.PersistentVolumeClaim) bool {
	if c.DeletionTimestamp != nil || c.Spec.VolumeName == "" {
		return false
	}
	key := kinds.For[*corev1.PersistentVolume]().Key("", c.Spec.VolumeName)
	for _, o := range []kinds.Object{a.Get(key), a.view.Get(key)} {
		if pv, ok := o.(*corev1.PersistentVolume); ok {
			live, _ := a.view.Get(key).(*corev1.PersistentVolume)
			return live != nil && live.Spec.ClaimRef != nil && live.Spec.ClaimRef.UID == c.UID &&
				pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete
		}
	}
	class, ok := view.Get[*storagev1.StorageClass](a.view, "", volume.GetPersistentVolumeClaimClass(c))
	return ok && class.ReclaimPolicy != nil && *class.ReclaimPolicy == corev1.PersistentVolumeReclaimDelete
}
