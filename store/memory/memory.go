// Package memory is the store without etcd: the same interfaces over a map, for tests.
package memory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
	"lockstep/store"
	"lockstep/store/view"
)

// Options of a store. The zero value is usable.
type Options struct {
	// Default sets the defaults of every object written, in place. Nil: none are set.
	Default func(kinds.Object)
	// Now is the clock of creationTimestamp and events. Nil: time.Now.
	Now func() time.Time
	// Intercept is asked before each group is written; its error becomes the group's result. Nil: all are written.
	Intercept func(store.Group) error
}

// Store keeps everything in memory. Every group becomes a revision of its own, visible when Commit returns.
type Store struct {
	opts  Options
	db    *view.DB
	ready chan struct{}
	lead  chan struct{} // holds a token while somebody leads

	mu      sync.Mutex
	rev     int64
	subs    map[*store.Subscription]struct{}
	history []view.Change
	events  *store.Correlator
	unwell  error
}

var _ store.Backend = (*Store)(nil)

// New returns an empty store on the system's clock, holding the objects given as if they had been committed.
func New(objs ...kinds.Object) *Store {
	s := NewWith(Options{})
	for _, o := range objs {
		if r := s.Commit(context.Background(), store.Group{{Key: kinds.KeyOf(o), Object: o}})[0]; r.Err != nil {
			panic(fmt.Sprintf("memory: cannot start with %v: %v", kinds.KeyOf(o), r.Err))
		}
	}
	return s
}

// NewWith returns an empty store. Its first revision is 1.
func NewWith(opts Options) *Store {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	s := &Store{
		opts: opts, db: view.NewDB(), ready: make(chan struct{}), lead: make(chan struct{}, 1), rev: 1,
		subs: map[*store.Subscription]struct{}{}, events: store.NewCorrelator(opts.Now),
	}
	close(s.ready)
	s.db.Apply(1, nil)
	return s
}

// Run waits for the end of ctx: the store works without it.
func (s *Store) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Ready is closed from the start.
func (s *Store) Ready() <-chan struct{} { return s.ready }

// Health returns what SetHealth has set; nil at first.
func (s *Store) Health() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unwell
}

// SetHealth sets what Health returns.
func (s *Store) SetHealth(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unwell = err
}

// View returns the newest view.
func (s *Store) View() *view.View { return s.db.View() }

// Wait returns the first view it sees at revision rev or later.
func (s *Store) Wait(ctx context.Context, rev int64) (*view.View, error) { return s.db.Wait(ctx, rev) }

// Subscribe tells of every batch applied after it returns.
func (s *Store) Subscribe(name string) *store.Subscription {
	sub := store.NewSubscription(name, func(sub *store.Subscription) {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.subs, sub)
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subs[sub] = struct{}{}
	return sub
}

// Current returns the revision of the newest view.
func (s *Store) Current(context.Context) (int64, error) { return s.View().Revision(), nil }

// Step makes a revision in which nothing changes.
func (s *Store) Step(context.Context) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.publish(s.rev+1, nil)
	return s.rev, nil
}

// History returns the changes of objects with from < revision <= to; nothing is ever forgotten.
func (s *Store) History(_ context.Context, from, to int64) (int64, []view.Change, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []view.Change
	for _, c := range s.history {
		if c.Revision > from && c.Revision <= to && c.OldRecord == nil && c.NewRecord == nil && !isHeartbeat(c.Key) {
			out = append(out, c)
		}
	}
	return from, out, nil
}

// Commit writes the groups.
func (s *Store) Commit(ctx context.Context, groups ...store.Group) []store.Result {
	if len(groups) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]store.Result, len(groups))
	for i, g := range groups {
		if err := ctx.Err(); err != nil {
			out[i].Err = err
			continue
		}
		out[i] = s.commit(g)
	}
	return out
}

func (s *Store) commit(g store.Group) store.Result {
	if s.opts.Intercept != nil {
		if err := s.opts.Intercept(g); err != nil {
			return store.Result{Err: err}
		}
	}
	if len(g) > store.MaxGroup {
		return store.Result{Err: fmt.Errorf("cannot write %d changes at once: %w", len(g), store.ErrTooLarge)}
	}
	v := s.db.View()
	rev := s.rev + 1
	changes := make([]view.Change, 0, len(g))
	seen := map[string]bool{}
	for _, w := range g {
		c, err := s.change(v, w, rev)
		if err != nil {
			return store.Result{Err: err}
		}
		id := c.Key.Path()
		if w.Record != nil {
			id = w.Record.Table + "/" + w.Record.Name
		}
		if seen[id] {
			return store.Result{Err: fmt.Errorf("cannot write %s: the group has it twice", id)}
		}
		seen[id] = true
		if c.Old != nil || c.New != nil || c.OldRecord != nil || c.NewRecord != nil {
			changes = append(changes, c)
		}
	}
	if len(changes) == 0 {
		return store.Result{Revision: s.rev}
	}
	s.publish(rev, changes)
	return store.Result{Revision: rev}
}

func (s *Store) publish(rev int64, changes []view.Change) {
	s.rev = rev
	changes = s.db.Apply(rev, changes)
	s.history = append(s.history, changes...)
	batch := store.Batch{View: s.db.View(), Changes: changes}
	for sub := range s.subs {
		sub.Offer(batch)
	}
}

// change checks the condition of a write and returns what it changes.
func (s *Store) change(v *view.View, w store.Write, rev int64) (view.Change, error) {
	if w.Record != nil {
		return recordChange(v, w, rev)
	}
	c := view.Change{Key: w.Key, Old: v.Get(w.Key), Revision: rev}
	heartbeat := isHeartbeat(w.Key)
	if w.If != store.Anyway && !heartbeat {
		var have int64
		if c.Old != nil {
			have = kinds.Revision(c.Old)
		}
		if have != w.If {
			return c, store.ErrConflict
		}
	}
	if w.Object == nil {
		return c, nil
	}
	if k := kinds.KeyOf(w.Object); k != w.Key {
		return c, fmt.Errorf("cannot write %v: the object is %v", w.Key, k)
	}
	if l, ok := w.Object.(*coordinationv1.Lease); ok && heartbeat {
		before, _ := c.Old.(*coordinationv1.Lease)
		c.New = store.Beat(w.Key.Name, l, before, s.opts.Now())
	} else {
		create := w.If == 0 || w.If == store.Anyway
		c.New = store.Stamped(w.Object, create, s.opts.Now()).DeepCopyObject().(kinds.Object)
	}
	if data, err := json.Marshal(c.New); err != nil {
		return c, fmt.Errorf("cannot write %v: %w", w.Key, err)
	} else if len(data) > 1<<20 {
		return c, fmt.Errorf("cannot write %v: %w", w.Key, store.ErrTooLarge)
	}
	if s.opts.Default != nil {
		s.opts.Default(c.New)
	}
	c.New.GetObjectKind().SetGroupVersionKind(kinds.Of(c.New).GroupVersionKind)
	c.New.SetResourceVersion(strconv.FormatInt(rev, 10))
	return c, nil
}

func recordChange(v *view.View, w store.Write, rev int64) (view.Change, error) {
	c := view.Change{Revision: rev}
	if old, ok := v.Record(w.Record.Table, w.Record.Name); ok {
		c.OldRecord = &old
	}
	if w.If != store.Anyway {
		var have int64
		if c.OldRecord != nil {
			have = c.OldRecord.Revision
		}
		if have != w.If {
			return c, store.ErrConflict
		}
	}
	if w.Record.Data == nil {
		return c, nil
	}
	if !json.Valid(w.Record.Data) {
		return c, fmt.Errorf("cannot write record %s/%s: it is not JSON", w.Record.Table, w.Record.Name)
	}
	c.NewRecord = &view.Record{
		Table: w.Record.Table, Name: w.Record.Name, Data: slices.Clone(w.Record.Data), Revision: rev,
	}
	return c, nil
}

// Event records an event at once.
func (s *Store) Event(component string, about kinds.Object, kind, reason, message string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.events.Correlate(store.NewEvent(component, about, kind, reason, message, s.opts.Now())); e != nil {
		s.commit(store.Group{{Key: kinds.KeyOf(e), Object: e, If: store.Anyway, Reason: "an event was recorded"}})
	}
}

// Renew takes a heartbeat at once.
func (s *Store) Renew(node string, lease *coordinationv1.Lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := lease.DeepCopy()
	l.Namespace, l.Name = corev1.NamespaceNodeLease, node
	s.commit(store.Group{{Key: kinds.KeyOf(l), Object: l, If: store.Anyway, Reason: "a node renewed its heartbeat"}})
}

// Lead runs f as soon as nobody else leads; see store.Backend.
func (s *Store) Lead(ctx context.Context, _ string, f func(ctx context.Context, c store.Committer) error) error {
	select {
	case s.lead <- struct{}{}:
		defer func() { <-s.lead }()
	case <-ctx.Done():
		return nil
	}
	err := f(ctx, &leader{Store: s, term: ctx})
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		return nil
	}
	return err
}

// leader refuses once its term is over.
type leader struct {
	*Store
	term context.Context
}

// Commit writes the groups, or fails them with ErrDeposed once the term is over.
func (l *leader) Commit(ctx context.Context, groups ...store.Group) []store.Result {
	if l.term.Err() == nil {
		return l.Store.Commit(ctx, groups...)
	}
	out := make([]store.Result, len(groups))
	for i := range out {
		out[i].Err = store.ErrDeposed
	}
	return out
}

func isHeartbeat(k kinds.Key) bool {
	return k.Group == "coordination.k8s.io" && k.Resource == "leases" && k.Namespace == corev1.NamespaceNodeLease
}
