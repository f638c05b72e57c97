package store

import (
	"reflect"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"

	"lockstep/kinds"
)

// Stamped returns a copy of the object, sharing all but the outermost struct, as it is to be stored: with its
// kind, without resourceVersion, and where create is set with uid (see kinds.TakeUID), creationTimestamp and generation where
// they are empty.
func Stamped(o kinds.Object, create bool, now time.Time) kinds.Object {
	to := kinds.Of(o).New()
	copyInto(to, o)
	stamp(to, create, now)
	return to
}

// stamp makes an object of its own what is stored; see Stamped.
func stamp(o kinds.Object, create bool, now time.Time) {
	kind := kinds.Of(o)
	o.SetResourceVersion("")
	o.GetObjectKind().SetGroupVersionKind(kind.GroupVersionKind)
	if !create {
		return
	}
	if o.GetUID() == "" {
		o.SetUID(uuid.NewUUID())
	}
	kinds.TakeUID(o)
	if created := o.GetCreationTimestamp(); created.IsZero() {
		o.SetCreationTimestamp(metav1.NewTime(now.Truncate(time.Second)))
	}
	if o.GetGeneration() == 0 && kind.Generation == kinds.Yes {
		o.SetGeneration(1)
	}
}

// copyInto makes an object's outermost struct that of another of its kind.
func copyInto(to, from kinds.Object) {
	reflect.ValueOf(to).Elem().Set(reflect.ValueOf(from).Elem())
}

// scratch lends objects to copy into: an object's struct is a kilobyte, and every write needs one for a moment.
type scratch map[*kinds.Kind]*sync.Pool

func newScratch() scratch {
	s := scratch{}
	for _, kind := range kinds.All {
		s[kind] = &sync.Pool{New: func() any { return kind.New() }}
	}
	return s
}

// take returns a copy of the object that shares all but the outermost struct.
func (s scratch) take(o kinds.Object) kinds.Object {
	to := s[kinds.Of(o)].Get().(kinds.Object)
	copyInto(to, o)
	return to
}

// give takes back what take returned; nobody may have kept it.
func (s scratch) give(o kinds.Object) {
	kind := kinds.Of(o)
	reflect.ValueOf(o).Elem().SetZero()
	s[kind].Put(o)
}
