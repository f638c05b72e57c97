package view

import (
	"context"
	"fmt"
	"sync"

	"github.com/hashicorp/go-memdb"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"lockstep/kinds"
)

const (
	objects = "objects"
	records = "records"
)

// DB is the database behind the views: one writer applies batches of changes, any number of readers take views.
type DB struct {
	mem *memdb.MemDB

	mu      sync.Mutex
	current *View
	moved   chan struct{} // closed and replaced at every Apply
}

// entry is an object with its index keys computed once.
type entry struct {
	id         string
	object     kinds.Object
	controller string
	owners     []string
	node       string
	isPod      bool
	service    string
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
		return txn.Insert(objects, newEntry(c.Key, c.New))
	default:
		_, err := txn.DeleteAll(objects, "id", idOf(c.Key))
		return err
	}
}

func newEntry(k kinds.Key, o kinds.Object) *entry {
	e := &entry{id: idOf(k), object: o, controller: controllerOf(o)}
	if e.controller == "" {
		e.controller = orphanage(k.GroupResource(), k.Namespace)
	}
	for _, ref := range o.GetOwnerReferences() {
		e.owners = append(e.owners, string(ref.UID))
	}
	switch o := o.(type) {
	case *corev1.Pod:
		e.isPod, e.node = true, o.Spec.NodeName
	case *discoveryv1.EndpointSlice:
		if service := o.Labels[discoveryv1.LabelServiceName]; service != "" {
			e.service = o.Namespace + "/" + service
		}
	}
	return e
}

func tables() *memdb.DBSchema {
	object := func(name string, values func(*entry) []string) *memdb.IndexSchema {
		return &memdb.IndexSchema{Name: name, AllowMissing: true, Indexer: entryIndex{values}}
	}
	one := func(s string) []string {
		if s == "" {
			return nil
		}
		return []string{s}
	}
	return &memdb.DBSchema{Tables: map[string]*memdb.TableSchema{
		objects: {Name: objects, Indexes: map[string]*memdb.IndexSchema{
			"id":         {Name: "id", Unique: true, Indexer: idIndex{func(o any) string { return o.(*entry).id }}},
			"uid":        object("uid", func(e *entry) []string { return one(string(e.object.GetUID())) }),
			"controller": object("controller", func(e *entry) []string { return one(e.controller) }),
			"owner":      object("owner", func(e *entry) []string { return e.owners }),
			"service":    object("service", func(e *entry) []string { return one(e.service) }),
			"node": object("node", func(e *entry) []string {
				if !e.isPod {
					return nil
				}
				return []string{e.node}
			}),
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

// entryIndex is a non-unique index with any number of values an entry; memdb appends the id to its keys, which keeps
// equal values in order of the id.
type entryIndex struct{ values func(*entry) []string }

func (i entryIndex) FromObject(o any) (bool, [][]byte, error) {
	values := i.values(o.(*entry))
	keys := make([][]byte, len(values))
	for n, v := range values {
		keys[n] = []byte(v + "\x00")
	}
	return len(keys) > 0, keys, nil
}

func (i entryIndex) FromArgs(args ...any) ([]byte, error) {
	s, err := oneString(args)
	return []byte(s + "\x00"), err
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
