package view

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/google/btree"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
)

// degree of the trees: a step copies the nodes on the way to what it changes, of at most twice as many items.
const degree = 16

// index names what refs are kept by.
type index int

const (
	byUID index = iota
	byOwner
	byOrphanage
	byRow   // the first of those that rows of the table ask for
	indexes = byRow + index(kinds.Indexes)
)

// DB is the database behind the views: one writer applies batches of changes, any number of readers take views.
type DB struct {
	work picture // the writer's own: pictures share its nodes until it changes them

	mu      sync.Mutex
	current *View
	moved   chan struct{} // closed and replaced at every Apply
}

// picture is the trees. A nil tree is empty.
type picture struct {
	objects map[*kinds.Kind]*btree.BTreeG[object]
	// refs is a tree for each index, of which a change of an object that leaves its index values alone, as most do,
	// touches nothing.
	refs    [indexes]*btree.BTreeG[ref]
	records *btree.BTreeG[*Record]
	// unreadable are the objects that are there and cannot be read, with the reasons. It is replaced, never changed.
	unreadable map[kinds.Key]string
}

// object is an object with its namespace and name, whose strings it shares.
type object struct {
	namespace, name string
	kinds.Object
}

func lessObject(a, b object) bool {
	if a.namespace != b.namespace {
		return a.namespace < b.namespace
	}
	return a.name < b.name
}

// ref says that an object has a value in an index.
type ref struct {
	value           string
	kind            *kinds.Kind
	namespace, name string
}

func lessRef(a, b ref) bool {
	switch {
	case a.value != b.value:
		return a.value < b.value
	case a.kind != b.kind:
		return before(a.kind, b.kind)
	case a.namespace != b.namespace:
		return a.namespace < b.namespace
	}
	return a.name < b.name
}

// before orders kinds by group, then resource; no kind is before all.
func before(a, b *kinds.Kind) bool {
	if a == nil || b == nil {
		return a == nil && b != nil
	}
	if a.Group != b.Group {
		return a.Group < b.Group
	}
	return a.Resource < b.Resource
}

func lessRecord(a, b *Record) bool {
	if a.Table != b.Table {
		return a.Table < b.Table
	}
	return a.Name < b.Name
}

// NewDB returns an empty database at revision 0.
func NewDB() *DB {
	return &DB{work: picture{objects: map[*kinds.Kind]*btree.BTreeG[object]{}}, current: &View{}, moved: make(chan struct{})}
}

// Of returns a view of just these objects at revision 1: for tests and for planning without a store.
func Of(objs ...kinds.Object) *View {
	db := NewDB()
	changes := make([]Change, len(objs))
	for i, o := range objs {
		changes[i] = Change{Key: kinds.KeyOf(o), New: o}
	}
	db.Apply(1, changes)
	return db.View()
}

// View returns the newest picture.
func (db *DB) View() *View {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.current
}

// Apply makes one picture of all the changes, at revision rev, the newest, and returns those that change something, with
// what was there before as their Old or OldRecord. It reuses the slice. Of a deleted record OldRecord need only say table
// and name. Only one goroutine may call it. A nil slice just moves the revision.
func (db *DB) Apply(rev int64, changes []Change) []Change {
	step := step{work: &db.work, kinds: map[*kinds.Kind]bool{}}
	kept := changes[:0]
	for _, c := range changes {
		if step.apply(&c) {
			kept = append(kept, c)
		}
	}
	clear(changes[len(kept):])
	next := step.picture(db.current.picture)

	db.mu.Lock()
	defer db.mu.Unlock()
	db.current = &View{picture: next, rev: rev}
	close(db.moved)
	db.moved = make(chan struct{})
	return kept
}

// Wait returns once the newest picture is at revision rev or later, or with ctx's error.
func (db *DB) Wait(ctx context.Context, rev int64) (*View, error) {
	for {
		db.mu.Lock()
		v, moved := db.current, db.moved
		db.mu.Unlock()
		if v.rev >= rev {
			return v, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return nil, fmt.Errorf("cannot reach revision %d, the view is at %d: %w", rev, v.rev, ctx.Err())
		}
	}
}

// step is one Apply: it changes the working trees, then clones those it changed into the next picture.
type step struct {
	work    *picture
	kinds   map[*kinds.Kind]bool // whose trees it changed
	refs    [indexes]bool
	records bool
	was, is []entry // room for the index values of an object
}

// entry is a value that an object has in an index.
type entry struct {
	index
	value string
}

// apply says whether the change changed anything.
func (s *step) apply(c *Change) bool {
	var old *Record
	switch {
	case c.NewRecord != nil:
		old, _ = s.recordTree().ReplaceOrInsert(c.NewRecord)
	case c.OldRecord != nil:
		old, _ = s.recordTree().Delete(c.OldRecord)
	case c.Unreadable != "":
		s.mark(c.Key, c.Unreadable)
		return false
	default:
		s.mark(c.Key, "")
		return s.setObject(c)
	}
	c.OldRecord = old
	return c.NewRecord != nil || old != nil
}

// mark notes why an object cannot be read; empty: it can.
func (s *step) mark(k kinds.Key, why string) {
	if s.work.unreadable[k] == why {
		return
	}
	next := maps.Clone(s.work.unreadable)
	if next == nil {
		next = map[kinds.Key]string{}
	}
	if next[k] = why; why == "" {
		delete(next, k)
	}
	s.work.unreadable = next
}

func (s *step) recordTree() *btree.BTreeG[*Record] {
	s.records = true
	if s.work.records == nil {
		s.work.records = btree.NewG(degree, lessRecord)
	}
	return s.work.records
}

func (s *step) objectTree(kind *kinds.Kind) *btree.BTreeG[object] {
	s.kinds[kind] = true
	t := s.work.objects[kind]
	if t == nil {
		t = btree.NewG(degree, lessObject)
		s.work.objects[kind] = t
	}
	return t
}

func (s *step) refTree(i index) *btree.BTreeG[ref] {
	s.refs[i] = true
	if s.work.refs[i] == nil {
		s.work.refs[i] = btree.NewG(degree, lessRef)
	}
	return s.work.refs[i]
}

// setObject replaces the object at a key, or removes it, and its refs where they differ.
func (s *step) setObject(c *Change) bool {
	kind := kinds.ForResource(c.Key.GroupResource())
	if kind == nil {
		return false // nothing of it can be there, and nothing of it can come
	}
	tree := s.objectTree(kind)
	var was object
	if c.New == nil {
		was, _ = tree.Delete(object{namespace: c.Key.Namespace, name: c.Key.Name})
	} else {
		was, _ = tree.ReplaceOrInsert(object{c.New.GetNamespace(), c.New.GetName(), c.New})
	}
	c.Old = was.Object
	if c.Old != nil && c.New != nil && sameValues(kind, c.Old, c.New) {
		return true // as most changes, at half the cost of comparing lists
	}
	s.was, s.is = appendEntries(s.was[:0], kind, c.Old), appendEntries(s.is[:0], kind, c.New)
	for _, e := range s.was {
		if !slices.Contains(s.is, e) {
			s.refTree(e.index).Delete(refOf(e, kind, c.Old))
		}
	}
	for _, e := range s.is {
		if !slices.Contains(s.was, e) {
			s.refTree(e.index).ReplaceOrInsert(refOf(e, kind, c.New))
		}
	}
	return c.Old != nil || c.New != nil
}

// picture returns the last picture with what the step changed. Cloning a tree takes no time: either side copies the
// nodes it changes from then on. A picture's own trees are never written, and not cloned again.
func (s *step) picture(last picture) picture {
	if len(s.kinds) > 0 {
		objects := make(map[*kinds.Kind]*btree.BTreeG[object], len(s.work.objects))
		maps.Copy(objects, last.objects)
		for kind := range s.kinds {
			objects[kind] = s.work.objects[kind].Clone()
		}
		last.objects = objects
	}
	for i, changed := range s.refs {
		if changed {
			last.refs[i] = s.work.refs[i].Clone()
		}
	}
	if s.records {
		last.records = s.work.records.Clone()
	}
	last.unreadable = s.work.unreadable
	return last
}

// appendEntries appends the index values of an object; nil has none.
func appendEntries(to []entry, kind *kinds.Kind, o kinds.Object) []entry {
	if o == nil {
		return to
	}
	if uid := o.GetUID(); uid != "" {
		to = append(to, entry{byUID, string(uid)})
	}
	for _, owner := range o.GetOwnerReferences() {
		to = append(to, entry{byOwner, string(owner.UID)})
	}
	if kind.Adoptable == kinds.Yes && controllerOf(o) == "" {
		to = append(to, entry{byOrphanage, orphanage(kind, o.GetNamespace())})
	}
	for _, by := range kind.Indexes {
		if value, ok := by.Value(o); ok {
			to = append(to, entry{byRow + index(by.Index), value})
		}
	}
	return to
}

// sameValues says that two states of an object have the same index values.
func sameValues(kind *kinds.Kind, a, b kinds.Object) bool {
	sameOwner := func(x, y metav1.OwnerReference) bool { return x.UID == y.UID }
	if a.GetUID() != b.GetUID() || controllerOf(a) != controllerOf(b) ||
		!slices.EqualFunc(a.GetOwnerReferences(), b.GetOwnerReferences(), sameOwner) {
		return false
	}
	for _, by := range kind.Indexes {
		was, had := by.Value(a)
		is, has := by.Value(b)
		if had != has || had && was != is {
			return false
		}
	}
	return true
}

func refOf(e entry, kind *kinds.Kind, o kinds.Object) ref {
	return ref{value: e.value, kind: kind, namespace: o.GetNamespace(), name: o.GetName()}
}
