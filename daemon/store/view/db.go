package view

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/hashicorp/go-memdb"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
)

// The tables. An index is a table of its own, refs, of which a change of an object that leaves its index values alone,
// as most do, touches nothing.
const (
	objects = "objects"
	records = "records"
	refs    = "refs"
)

// The indexes in refs.
const (
	byUID       = "uid"
	byOwner     = "owner"
	byOrphanage = "orphanage"
	byNode      = "node"
	byService   = "service"
)

// DB is the database behind the views: one writer applies batches of changes, any number of readers take views.
type DB struct {
	mem *memdb.MemDB

	mu      sync.Mutex
	current *View
	moved   chan struct{} // closed and replaced at every Apply
}

// entry is an object with its id.
type entry struct {
	id     string
	object kinds.Object
}

// ref says that the object with an id has a value in an index. Its key is index, value and id, so that the refs of one
// value are in order of the ids.
type ref struct {
	key string
	id  string
}

// NewDB returns an empty database at revision 0.
func NewDB() *DB {
	mem, err := memdb.NewMemDB(tables())
	if err != nil {
		panic(fmt.Sprintf("view: the schema is a constant and must be valid: %v", err))
	}
	return &DB{mem: mem, current: &View{txn: mem.Txn(false)}, moved: make(chan struct{})}
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

// Apply makes one picture of all the changes, at revision rev, the newest. Only one goroutine may call it.
// A nil slice just moves the revision.
func (db *DB) Apply(rev int64, changes []Change) {
	txn := db.mem.Txn(true)
	for _, c := range changes {
		if err := apply(txn, c); err != nil {
			panic(fmt.Sprintf("view: cannot apply %v at revision %d: %v", c.Key, rev, err))
		}
	}
	txn.Commit()

	db.mu.Lock()
	defer db.mu.Unlock()
	db.current = &View{txn: db.mem.Txn(false), rev: rev}
	close(db.moved)
	db.moved = make(chan struct{})
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

func apply(txn *memdb.Txn, c Change) error {
	switch {
	case c.NewRecord != nil:
		return txn.Insert(records, c.NewRecord)
	case c.OldRecord != nil:
		_, err := txn.DeleteAll(records, "id", c.OldRecord.Table+"\x00"+c.OldRecord.Name)
		return err
	case c.New != nil:
		return setObject(txn, idOf(c.Key), c.Old, c.New)
	default:
		return setObject(txn, idOf(c.Key), c.Old, nil)
	}
}

// setObject replaces the object with an id, nil for none, and its refs where they differ. Old is what is there; where it
// is nil, it is looked up.
func setObject(txn *memdb.Txn, id string, old, now kinds.Object) error {
	if old == nil {
		raw, err := txn.First(objects, "id", id)
		if err != nil {
			return err
		}
		if there, ok := raw.(*entry); ok {
			old = there.object
		}
	}
	switch {
	case now != nil:
		if err := txn.Insert(objects, &entry{id: id, object: now}); err != nil {
			return err
		}
	case old == nil:
		return nil
	default:
		if _, err := txn.DeleteAll(objects, "id", id); err != nil {
			return err
		}
	}
	if old != nil && now != nil && sameValues(old, now) {
		return nil
	}
	if old != nil {
		for _, r := range refsOf(id, old) {
			if _, err := txn.DeleteAll(refs, "id", r.key); err != nil {
				return err
			}
		}
	}
	if now == nil {
		return nil
	}
	for _, r := range refsOf(id, now) {
		if err := txn.Insert(refs, r); err != nil {
			return err
		}
	}
	return nil
}

// refsOf returns the index values of an object, each once.
func refsOf(id string, o kinds.Object) []*ref {
	var out []*ref
	add := func(index, value string) {
		key := index + "\x00" + value + "\x00" + id
		if !slices.ContainsFunc(out, func(r *ref) bool { return r.key == key }) {
			out = append(out, &ref{key: key, id: id})
		}
	}
	if uid := o.GetUID(); uid != "" {
		add(byUID, string(uid))
	}
	for _, owner := range o.GetOwnerReferences() {
		add(byOwner, string(owner.UID))
	}
	if controllerOf(o) == "" {
		if value := orphanage(kinds.Of(o).GroupResource(), o.GetNamespace()); value != "" {
			add(byOrphanage, value)
		}
	}
	if p, ok := o.(*corev1.Pod); ok {
		add(byNode, p.Spec.NodeName)
	}
	if service := serviceOf(o); service != "" {
		add(byService, service)
	}
	return out
}

// sameValues says that two states of an object have the same index values.
func sameValues(a, b kinds.Object) bool {
	sameOwner := func(x, y metav1.OwnerReference) bool { return x.UID == y.UID }
	if a.GetUID() != b.GetUID() || controllerOf(a) != controllerOf(b) ||
		!slices.EqualFunc(a.GetOwnerReferences(), b.GetOwnerReferences(), sameOwner) {
		return false
	}
	if p, ok := a.(*corev1.Pod); ok {
		q, ok := b.(*corev1.Pod)
		return ok && p.Spec.NodeName == q.Spec.NodeName
	}
	return serviceOf(a) == serviceOf(b)
}

// serviceOf returns namespace/name of the service an endpoint slice belongs to, or nothing.
func serviceOf(o kinds.Object) string {
	s, ok := o.(*discoveryv1.EndpointSlice)
	if !ok || s.Labels[discoveryv1.LabelServiceName] == "" {
		return ""
	}
	return s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName]
}

func tables() *memdb.DBSchema {
	return &memdb.DBSchema{Tables: map[string]*memdb.TableSchema{
		objects: {Name: objects, Indexes: map[string]*memdb.IndexSchema{
			"id": {Name: "id", Unique: true, Indexer: idIndex{func(o any) string { return o.(*entry).id }}},
		}},
		refs: {Name: refs, Indexes: map[string]*memdb.IndexSchema{
			"id": {Name: "id", Unique: true, Indexer: idIndex{func(o any) string { return o.(*ref).key }}},
		}},
		records: {Name: records, Indexes: map[string]*memdb.IndexSchema{
			"id": {Name: "id", Unique: true, Indexer: idIndex{func(o any) string {
				r := o.(*Record)
				return r.Table + "\x00" + r.Name
			}}},
		}},
	}}
}

// idIndex is a unique string index. Its keys end with a NUL NUL so that no key is a prefix of another.
type idIndex struct{ value func(any) string }

func (i idIndex) FromObject(o any) (bool, []byte, error) {
	return true, []byte(i.value(o) + "\x00\x00"), nil
}

func (i idIndex) FromArgs(args ...any) ([]byte, error) {
	s, err := oneString(args)
	return []byte(s + "\x00\x00"), err
}

func (i idIndex) PrefixFromArgs(args ...any) ([]byte, error) {
	s, err := oneString(args)
	return []byte(s), err
}

func oneString(args []any) (string, error) {
	if len(args) != 1 {
		return "", fmt.Errorf("want one argument, got %d", len(args))
	}
	s, ok := args[0].(string)
	if !ok {
		return "", fmt.Errorf("want a string, got %T", args[0])
	}
	return s, nil
}
