// Package provenance finds the manifest that an object, or the nearest owner that was declared, comes from.
package provenance

import (
	"maps"
	"strconv"
	"sync"
	"unique"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"lockstep/internal/plain"
	"lockstep/kinds"
	"lockstep/kinds/v1alpha1"
	"lockstep/store/view"
	"lockstep/sync/plan"
)

// Annotations that reads of the API bear and no stored object has: where a declared object, or the one that controls
// it, comes from.
const (
	AnnotationSource = "lockstep.dev/source"
	AnnotationFile   = "lockstep.dev/file" // path:line
	AnnotationCommit = "lockstep.dev/commit"
	AnnotationAuthor = "lockstep.dev/author"
)

// AnnotationTeller is stored with an event that a program told: the name of its service account.
const AnnotationTeller = "lockstep.dev/told-by"

// Origin is where an object was declared.
type Origin struct {
	Source string
	File   string
	Line   int
	// Commit is the revision in which the object's content was first applied.
	Commit string
	Author string
}

// Place is "path:line", or the path alone where the line is not known.
func (o Origin) Place() string {
	if o.Line <= 0 {
		return o.File
	}
	return o.File + ":" + strconv.Itoa(o.Line)
}

// Annotate returns a copy of the annotations with the origin's.
func (o Origin) Annotate(annotations map[string]string) map[string]string {
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

// Strip returns a copy of the annotations without those of this package, which nobody states; nil where none remain.
func Strip(annotations map[string]string) map[string]string {
	out := maps.Clone(annotations)
	for _, key := range []string{AnnotationSource, AnnotationFile, AnnotationCommit, AnnotationAuthor, AnnotationTeller} {
		delete(out, key)
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// ownerDepth bounds the walk from a pod to who declared it; Kubernetes' longest chain is three.
const ownerDepth = 8

// Finder remembers the parsed head of inventory records, which hold a whole object each. Any number of goroutines may
// use one.
type Finder struct {
	mu    sync.RWMutex
	known map[string]knownOrigin
}

type knownOrigin struct {
	rev    int64
	origin *Origin
}

// New returns a finder that knows nothing yet.
func New() *Finder { return &Finder{known: map[string]knownOrigin{}} }

// Of returns where the object, or the nearest owner that was declared, comes from.
func (f *Finder) Of(v *view.View, o kinds.Object) (Origin, bool) {
	if origin := f.Find(v, o); origin != nil {
		return *origin, true
	}
	return Origin{}, false
}

// Find is Of; its result is shared, and nil where nobody declared the object or an owner of it.
func (f *Finder) Find(v *view.View, o kinds.Object) *Origin {
	for range ownerDepth {
		if origin := f.declared(v, kinds.KeyOf(o)); origin != nil {
			return origin
		}
		if o = Controller(v, o); o == nil {
			return nil
		}
	}
	return nil
}

// Controller returns the object that controls o, or nil.
func Controller(v *view.View, o kinds.Object) kinds.Object {
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

// Declared finds the inventory record of a key in any source.
func (f *Finder) Declared(v *view.View, key kinds.Key) (Origin, bool) {
	if origin := f.declared(v, key); origin != nil {
		return *origin, true
	}
	return Origin{}, false
}

func (f *Finder) declared(v *view.View, key kinds.Key) *Origin {
	for source := range view.List[*v1alpha1.Source](v, "") {
		if record, ok := v.Record(string(plan.Inventory), source.Name+"/"+key.Path()); ok {
			return f.parse(record)
		}
	}
	return nil
}

// parse returns nil for a record that is none of the inventory's.
func (f *Finder) parse(r view.Record) *Origin {
	f.mu.RLock()
	k, ok := f.known[r.Name]
	f.mu.RUnlock()
	if ok && k.rev == r.Revision {
		return k.origin
	}
	row, err := plan.Inventory.Decode(r)
	if err != nil {
		return nil
	}
	d := row.Value
	origin := &Origin{Source: d.Source, File: d.File, Line: d.Line, Commit: d.Commit, Author: d.Author}
	// Thousands of objects share a source, a commit and an author.
	for _, text := range []*string{&origin.Source, &origin.File, &origin.Commit, &origin.Author} {
		*text = unique.Make(plain.Text(*text)).Value()
	}
	f.mu.Lock()
	f.known[r.Name] = knownOrigin{rev: r.Revision, origin: origin}
	f.mu.Unlock()
	return origin
}

// Forget drops what is known of a record that was deleted.
func (f *Finder) Forget(c view.Change) {
	if c.NewRecord == nil && c.OldRecord != nil && c.OldRecord.Table == string(plan.Inventory) {
		f.mu.Lock()
		delete(f.known, c.OldRecord.Name)
		f.mu.Unlock()
	}
}
