package watch

import (
	"maps"
	"reflect"
	"sync"

	"lockstep/daemon/provenance"
	"lockstep/internal/giturl"
	"lockstep/kinds"
	"lockstep/kinds/v1alpha1"
	"lockstep/store/view"
)

// Present copies an object's outermost struct, so that the caller may set its kind, revision and annotations, and adds
// where it comes from. Everything further in is still shared.
func (h *Hub) Present(v *view.View, o kinds.Object) kinds.Object {
	return show(o, h.ledger.of(v, o, h.current))
}

// current says whether the object is the newest state of what it is.
func (h *Hub) current(o kinds.Object) bool { return h.View().Get(kinds.KeyOf(o)) == o }

func show(o kinds.Object, origin *provenance.Origin) kinds.Object {
	shallow := reflect.New(reflect.TypeOf(o).Elem())
	shallow.Elem().Set(reflect.ValueOf(o).Elem())
	out := shallow.Interface().(kinds.Object)
	if origin != nil {
		out.SetAnnotations(origin.Annotate(o.GetAnnotations()))
	}
	if source, ok := out.(*v1alpha1.Source); ok {
		source.Spec.URL = giturl.Redact(source.Spec.URL) // of an earlier release, it may hold a password
	}
	return out
}

// ledger holds where states of objects came from when they were made. An object is shown with that for as long as it is in
// that state, and once more when it is gone, whatever has become of its manifest meanwhile: at one resourceVersion an object
// has one content. What nobody declared is not in it.
type ledger struct {
	finder *provenance.Finder

	mu sync.RWMutex
	at map[kinds.Object]*provenance.Origin
}

func newLedger(f *provenance.Finder) *ledger {
	return &ledger{finder: f, at: map[kinds.Object]*provenance.Origin{}}
}

// made notes where a new state comes from, as of the view that has it first.
func (l *ledger) made(v *view.View, o kinds.Object) *provenance.Origin {
	origin := l.finder.Find(v, o)
	if origin != nil {
		l.mu.Lock()
		l.at[o] = origin
		l.mu.Unlock()
	}
	return origin
}

// of returns what was noted of a state. Of one that is older than this process, or that was declared as it was, it is what
// the view says, noted for those who ask later where keep allows it.
func (l *ledger) of(v *view.View, o kinds.Object, keep func(kinds.Object) bool) *provenance.Origin {
	l.mu.RLock()
	origin := l.at[o]
	l.mu.RUnlock()
	switch {
	case origin != nil:
		return origin
	case keep(o):
		return l.made(v, o)
	default:
		return l.finder.Find(v, o)
	}
}

// forget drops a state that nobody can be shown any more.
func (l *ledger) forget(o kinds.Object) {
	l.mu.Lock()
	delete(l.at, o)
	l.mu.Unlock()
}

// prune keeps only what is in a view.
func (l *ledger) prune(v *view.View) {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.at, func(o kinds.Object, _ *provenance.Origin) bool { return v.Get(kinds.KeyOf(o)) != o })
}
