// Package revisions keeps the history of a pod template: one ControllerRevision for each that its owner has had.
package revisions

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/validation"

	"lockstep/kinds"
	"lockstep/kinds/template"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// Owner is what has a history.
type Owner struct {
	kinds.Object
	Selector labels.Selector
	Template *corev1.PodTemplateSpec
	// HashLabel is the label of a revision that has its hash, the last part of its name.
	HashLabel string
	// Collisions counts the names that were found taken, as the owner's status has it; nil: none were.
	Collisions *int32
}

// History is what an owner has of revisions, and of which template it is now.
type History struct {
	// Update is the revision of the owner's template: one of the view, a copy of one whose number is raised, or a new one,
	// which has no uid.
	Update *appsv1.ControllerRevision
	// Collisions is Owner's, and those that were found since.
	Collisions int32

	owner  Owner
	claims loop.Claims[*appsv1.ControllerRevision]
	mine   []*appsv1.ControllerRevision // the oldest first, as the view has them or as adopted, without Update where that is new
}

// Reads declares the kind, for a reconciler with owners of type T.
func Reads[T kinds.Object](selector func(T) *metav1.LabelSelector) loop.Read {
	return loop.Read{
		Kind: kinds.For[*appsv1.ControllerRevision](), How: "its controller; an orphan: those that select it",
		Keys: loop.ClaimantKeys(selector),
	}
}

// Writes declares what a history is written by.
func Writes() loop.Write {
	return loop.Write{
		Kind: kinds.For[*appsv1.ControllerRevision](), Create: true, Delete: true, Children: true,
		Fields: []string{"metadata.ownerReferences", "revision"},
		Shared: map[string]string{
			"metadata.ownerReferences": loop.OwnReference, "revision": "each owner numbers those that it controls",
		},
	}
}

// Of returns the history of an owner. A template it has had gets its old revision back, with a number above all others.
// Templates are the same by what they say, never by their hash alone.
func Of(v *view.View, owner Owner) (History, error) {
	h := History{owner: owner}
	if owner.Collisions != nil {
		h.Collisions = *owner.Collisions
	}
	h.claims = loop.Claim(v, owner.Object, owner.Selector, func(r *appsv1.ControllerRevision) bool { return r.DeletionTimestamp == nil })
	h.mine = slices.SortedStableFunc(slices.Values(h.claims.Mine), byNumber)
	number := int64(1)
	if n := len(h.mine); n > 0 {
		number = h.mine[n-1].Revision + 1
	}
	for i, r := range slices.Backward(h.mine) {
		if !keeps(r, owner.Template) {
			continue
		}
		h.Update = r
		if i < len(h.mine)-1 {
			h.Update = r.DeepCopy()
			h.Update.Revision = number
			h.mine[i] = h.Update
		}
		return h, nil
	}
	return h, h.add(v, number)
}

// add makes a revision of a template that there is none of, under a name that nothing has.
func (h *History) add(v *view.View, number int64) error {
	data, err := template.Encode(h.owner.Template)
	if err != nil {
		return loop.Stall(fmt.Errorf("cannot keep the revision of %v: %w", kinds.KeyOf(h.owner.Object), err))
	}
	r := &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       h.owner.GetNamespace(),
			Labels:          maps.Clone(h.owner.Template.Labels),
			Annotations:     h.owner.GetAnnotations(),
			OwnerReferences: []metav1.OwnerReference{loop.ControllerRef(h.owner.Object)},
		},
		Data:     data,
		Revision: number,
	}
	if r.Labels == nil {
		r.Labels = map[string]string{}
	}
	for ; ; h.Collisions++ {
		hash := hashOf(data.Raw, h.Collisions)
		r.Name, r.Labels[h.owner.HashLabel] = nameOf(h.owner.GetName(), hash), hash
		if v.Get(kinds.KeyOf(r)) == nil {
			h.Update = r
			return nil
		}
	}
}

// Named returns the revision of that name, or nil.
func (h *History) Named(name string) *appsv1.ControllerRevision {
	if h.Update.Name == name {
		return h.Update
	}
	i := slices.IndexFunc(h.mine, func(r *appsv1.ControllerRevision) bool { return r.Name == name })
	if i < 0 {
		return nil
	}
	return h.mine[i]
}

// Plan wants the revisions that are live, by their names, and the newest of the others up to a limit, which is none where it
// is nil or negative; the rest goes.
func (h *History) Plan(limit *int32, live func(name string) bool) (wants []loop.Want, drops []loop.Drop) {
	wants = append(h.claims.Releases(), loop.Keep("going away", h.claims.Kept...)...)
	var past []*appsv1.ControllerRevision
	for _, r := range h.mine {
		switch {
		case r == h.Update && !slices.Contains(h.claims.Mine, r):
			wants = append(wants, loop.Want{Object: r, Reason: "the template is one of before"})
		case r == h.Update || live(r.Name):
			wants = append(wants, loop.Want{Object: r, Reason: "in use"})
		default:
			past = append(past, r)
		}
	}
	surplus := 0
	if limit != nil && *limit >= 0 && h.owner.GetDeletionTimestamp() == nil {
		surplus = max(0, len(past)-int(*limit))
	}
	for _, r := range past[:surplus] {
		drops = append(drops, loop.DropOf(r, "past the revision history limit"))
	}
	wants = append(wants, loop.Keep("history", past[surplus:]...)...)
	if h.Update.UID == "" && h.owner.GetDeletionTimestamp() == nil {
		wants = append(wants, loop.Want{Object: h.Update, Reason: "new template"})
	}
	return wants, drops
}

// Template is the template that a revision of the history keeps. An error waits for another revision.
func Template(r *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	t, err := template.Of(r)
	if err != nil {
		return nil, loop.Stall(err)
	}
	return t, nil
}

func keeps(r *appsv1.ControllerRevision, t *corev1.PodTemplateSpec) bool {
	kept, err := template.Of(r)
	return err == nil && equality.Semantic.DeepEqual(kept, t)
}

func byNumber(a, b *appsv1.ControllerRevision) int {
	return cmp.Or(cmp.Compare(a.Revision, b.Revision), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

// hashOf is Kubernetes' (pkg/controller/history), so that names look alike; nothing relies on it.
func hashOf(data []byte, collisions int32) string {
	h := fnv.New32()
	// A hash's Write returns no error.
	_, _ = h.Write(data)
	_, _ = h.Write([]byte(strconv.Itoa(int(collisions))))
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10))
}

func nameOf(owner, hash string) string {
	if most := validation.DNS1123SubdomainMaxLength - 1 - len(hash); len(owner) > most {
		owner = owner[:most]
	}
	return owner + "-" + hash
}
