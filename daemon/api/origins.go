package api

import (
	"encoding/json"
	"maps"
	"reflect"
	"strconv"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"lockstep/daemon/store/view"
	"lockstep/kinds"
	"lockstep/kinds/v1alpha1"
)

// Annotations that reads of the API bear and no stored object has: where a declared object, or the one that controls
// it, comes from.
const (
	AnnotationSource = "lockstep.dev/source"
	AnnotationFile   = "lockstep.dev/file" // path:line
	AnnotationCommit = "lockstep.dev/commit"
	AnnotationAuthor = "lockstep.dev/author"
)

// Origin is where an object was declared.
type Origin struct {
	Source string `json:"source"`
	File   string `json:"file"`
	Line   int    `json:"line"`
	// Commit is the revision in which the object's content was first applied.
	Commit string `json:"commit"`
	Author string `json:"author"`
}

// Place is "path:line", or the path alone where the line is not known.
func (o Origin) Place() string {
	if o.Line <= 0 {
		return o.File
	}
	return o.File + ":" + strconv.Itoa(o.Line)
}

func (o Origin) annotate(annotations map[string]string) map[string]string {
	out := make(map[string]string, len(annotations)+4)
	maps.Copy(out, annotations)
	for key, value := range map[string]string{
		AnnotationSource: o.Source, AnnotationFile: o.Place(), AnnotationCommit: o.Commit, AnnotationAuthor: o.Author,
	} {
		if value != "" {
			out[key] = value
		}
	}
	return out
}

// withoutOrigin removes what annotate added.
func withoutOrigin(annotations map[string]string) map[string]string {
	out := maps.Clone(annotations)
	for _, key := range []string{AnnotationSource, AnnotationFile, AnnotationCommit, AnnotationAuthor} {
		delete(out, key)
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

const (
	desiredTable = "desired"
	// ownerDepth bounds the walk from a pod to who declared it; Kubernetes' longest chain is three.
	ownerDepth = 8
)

// origins remembers the parsed head of inventory records, which hold a whole object each.
type origins struct {
	mu    sync.RWMutex
	known map[string]knownOrigin
}

type knownOrigin struct {
	rev    int64
	origin Origin
}

func newOrigins() *origins { return &origins{known: map[string]knownOrigin{}} }

// Of returns where the object, or the nearest owner that was declared, comes from.
func (s *origins) of(v *view.View, o kinds.Object) (Origin, bool) {
	for range ownerDepth {
		if origin, ok := s.declared(v, kinds.KeyOf(o)); ok {
			return origin, true
		}
		if o = controller(v, o); o == nil {
			return Origin{}, false
		}
	}
	return Origin{}, false
}

// controller returns the object that controls o, or nil.
func controller(v *view.View, o kinds.Object) kinds.Object {
	ref := metav1.GetControllerOfNoCopy(o)
	if ref == nil {
		return nil
	}
	kind := kinds.ForGVK(schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind))
	if kind == nil {
		return nil
	}
	namespace := ""
	if kind.Namespaced {
		namespace = o.GetNamespace()
	}
	owner := v.Get(kind.Key(namespace, ref.Name))
	if owner == nil || owner.GetUID() != ref.UID {
		return nil
	}
	return owner
}

// declared finds the inventory record of a key in any source.
func (s *origins) declared(v *view.View, key kinds.Key) (Origin, bool) {
	for source := range view.List[*v1alpha1.Source](v, "") {
		if record, ok := v.Record(desiredTable, source.Name+"/"+key.Path()); ok {
			return s.parse(record)
		}
	}
	return Origin{}, false
}

func (s *origins) parse(r view.Record) (Origin, bool) {
	s.mu.RLock()
	k, ok := s.known[r.Name]
	s.mu.RUnlock()
	if ok && k.rev == r.Revision {
		return k.origin, true
	}
	var origin Origin
	if err := json.Unmarshal(r.Data, &origin); err != nil {
		return Origin{}, false
	}
	s.mu.Lock()
	s.known[r.Name] = knownOrigin{rev: r.Revision, origin: origin}
	s.mu.Unlock()
	return origin, true
}

// forget drops what is known of a record that was deleted.
func (s *origins) forget(c view.Change) {
	if c.NewRecord == nil && c.OldRecord != nil && c.OldRecord.Table == desiredTable {
		s.mu.Lock()
		delete(s.known, c.OldRecord.Name)
		s.mu.Unlock()
	}
}

// present copies an object's outermost struct, so that the caller may set its kind, revision and annotations, and adds
// where it comes from. Everything further in is still shared.
func (h *hub) present(v *view.View, o kinds.Object) kinds.Object {
	shallow := reflect.New(reflect.TypeOf(o).Elem())
	shallow.Elem().Set(reflect.ValueOf(o).Elem())
	out := shallow.Interface().(kinds.Object)
	if origin, ok := h.origins.of(v, o); ok {
		out.SetAnnotations(origin.annotate(o.GetAnnotations()))
	}
	return out
}
