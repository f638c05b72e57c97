package loop

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"lockstep/kinds"
	"lockstep/store/view"
)

// OwnReference is why owners share the references of what they claim.
const OwnReference = "each owner adds and takes away the reference to itself alone"

// OwnSize is why loops share the size of a replica set.
const OwnSize = "a replica set has its size of what controls it, and of an autoscaler only where nothing does"

// OwnCondition is why loops share a list of conditions.
const OwnCondition = "each loop writes conditions of its own types alone"

// OwnNode is why loops share the annotations of claims.
const OwnNode = "who provisions takes away the node that was selected, and nothing else"

// OwnFinalizer is why loops share the finalizers of volumes.
const OwnFinalizer = "each loop takes away its own alone"

// OwnPhase is why loops share the status of volumes.
const OwnPhase = "one says the phase, the other in the message what a released volume waits for"

// Claims are the objects of one kind that an owner has, or should have, after Kubernetes' rules of adoption and release.
type Claims[T kinds.Object] struct {
	// Mine are controlled by the owner and match its selector; the adopted ones are among them, as changed copies.
	Mine []T
	// Adopted are copies with the owner's reference added, Released copies without it.
	Adopted, Released []T
	// Kept are controlled by the owner and left alone: they match no more, but are finished or going away.
	Kept []T
}

// Selector reads an owner's selector. The error of one that cannot be read waits for another.
func Selector(owner kinds.Object, s *metav1.LabelSelector) (labels.Selector, error) {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return nil, Stall(fmt.Errorf("cannot read the selector of %v: %w", kinds.KeyOf(owner), err))
	}
	return selector, nil
}

// Claim sorts the objects of the owner's namespace that concern it: those it controls, and the orphans that match its
// selector. Only live objects are adopted and released, and not by an owner that is being deleted.
func Claim[T kinds.Object](v *view.View, owner kinds.Object, selector labels.Selector, live func(T) bool) Claims[T] {
	var c Claims[T]
	going := owner.GetDeletionTimestamp() != nil
	for o := range v.Controlled(owner.GetUID()) {
		t, ok := o.(T)
		switch {
		case !ok || o.GetNamespace() != owner.GetNamespace():
		case selector.Matches(labels.Set(o.GetLabels())):
			c.Mine = append(c.Mine, t)
		case going || !live(t):
			c.Kept = append(c.Kept, t)
		default:
			c.Released = append(c.Released, release(t, owner))
		}
	}
	if going || selector.Empty() {
		return c
	}
	for o := range view.Orphans[T](v, owner.GetNamespace()) {
		if o.GetDeletionTimestamp() != nil || !live(o) || !selector.Matches(labels.Set(o.GetLabels())) {
			continue
		}
		adopted := o.DeepCopyObject().(T)
		adopted.SetOwnerReferences(append(adopted.GetOwnerReferences(), ControllerRef(owner)))
		c.Adopted = append(c.Adopted, adopted)
		c.Mine = append(c.Mine, adopted)
	}
	return c
}

// ControllerRef is the owner reference of what owner controls.
func ControllerRef(owner kinds.Object) metav1.OwnerReference {
	return *metav1.NewControllerRef(owner, kinds.Of(owner).GroupVersionKind)
}

// Releases wants the released objects, which have no owner any more.
func (c Claims[T]) Releases() []Want {
	return Keep("released: the selector does not match any more", c.Released...)
}

func release[T kinds.Object](o T, owner kinds.Object) T {
	released := o.DeepCopyObject().(T)
	released.SetOwnerReferences(slices.DeleteFunc(released.GetOwnerReferences(), func(r metav1.OwnerReference) bool {
		return r.UID == owner.GetUID()
	}))
	return released
}

// ControllerKeys maps an object to its controller, if that is of the kind.
func ControllerKeys(kind *kinds.Kind) func(*view.View, kinds.Object) []kinds.Key {
	return func(_ *view.View, o kinds.Object) []kinds.Key {
		ref := metav1.GetControllerOfNoCopy(o)
		if ref == nil || ref.Kind != kind.Kind || ref.APIVersion != kind.GroupVersion().String() {
			return nil
		}
		return []kinds.Key{kind.Key(o.GetNamespace(), ref.Name)}
	}
}

// ClaimantKeys maps an object to its controller if that is of type T, and an orphan to every T of its namespace whose
// selector matches it.
func ClaimantKeys[T kinds.Object](selector func(T) *metav1.LabelSelector) func(*view.View, kinds.Object) []kinds.Key {
	kind := kinds.For[T]()
	controller := ControllerKeys(kind)
	return func(v *view.View, o kinds.Object) []kinds.Key {
		if metav1.GetControllerOfNoCopy(o) != nil {
			return controller(v, o)
		}
		var keys []kinds.Key
		for claimant := range view.List[T](v, o.GetNamespace()) {
			if kinds.Selects(selector(claimant), o) {
				keys = append(keys, kinds.KeyOf(claimant))
			}
		}
		return keys
	}
}
