package store

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"lockstep/store/view"
)

// Transformer seals values on their way to etcd and opens them on their way back. The etcd key goes with each, so that a value
// cannot be moved to another one unnoticed. All methods may be called by any number of goroutines at once.
type Transformer interface {
	// Seals says whether values at an etcd key are sealed; those at other keys are stored as they are.
	Seals(key string) bool
	// Writes names the key with which ToStorage seals what is stored at an etcd key from now on; empty: with none.
	Writes(key string) string
	// ToStorage appends to a buffer what to store for data, and returns it.
	ToStorage(key string, to, data []byte) ([]byte, error)
	// FromStorage is its inverse, and names the key that the value was sealed with, also where it cannot be opened; empty: with
	// none. It does not change data, which it may return. An error that matches ErrNoKey says that the key is not known here;
	// every other one, that the value is not what was sealed with it, or at another etcd key. Either says what can be done.
	FromStorage(key string, data []byte) (out []byte, by string, err error)
	// Record is where it is stored with which keys values are sealed; empty: nowhere.
	Record() (table, name string)
	// Learn takes what is stored there, nil for nothing, before a value of that revision or a later one is opened. An error says
	// that this process may not go on.
	Learn(data []byte) error
}

// SealedPrefix is how every sealed payload begins, as in Kubernetes: no payload of ours does.
const SealedPrefix = "k8s:enc:"

// Identity is the Transformer that changes nothing.
type Identity struct{}

// Seals returns false.
func (Identity) Seals(string) bool { return false }

// Writes returns "".
func (Identity) Writes(string) string { return "" }

// ToStorage appends data.
func (Identity) ToStorage(_ string, to, data []byte) ([]byte, error) { return append(to, data...), nil }

// FromStorage returns data, or an error where it is sealed.
func (Identity) FromStorage(_ string, data []byte) ([]byte, string, error) {
	return nil, "", fmt.Errorf("%w: it is sealed, and this process seals nothing", ErrNoKey)
}

// Record returns nothing.
func (Identity) Record() (string, string) { return "", "" }

// Learn does nothing.
func (Identity) Learn([]byte) error { return nil }

var (
	// ErrNoKey: a value is sealed with a key that this process does not have.
	ErrNoKey = errors.New("the key is not here")
	// ErrUnreadable: what is stored is sealed and cannot be opened; nothing was written, since nobody knows what would be lost.
	ErrUnreadable = errors.New("what is stored there cannot be read")
	// ErrWrongKeys: this process does not have the keys that the data are sealed with; it must not touch them.
	ErrWrongKeys = errors.New("the data are sealed with keys that are not here")
)

// unreadable says why a sealed value cannot be read.
type unreadable struct {
	by  string
	err error
}

func (u *unreadable) Error() string { return u.err.Error() }
func (u *unreadable) Unwrap() error { return u.err }

// whyUnreadable is why an item cannot be read though it is there; nil: it can, or is no sealed value of ours.
func (it *item) whyUnreadable() *unreadable {
	var u *unreadable
	if errors.As(it.err, &u) {
		return u
	}
	return nil
}

// name is the item as people know it.
func (it *item) name() string {
	switch it.place.part {
	case objectPart, eventPart:
		return it.place.key.String()
	case recordPart:
		return "record " + it.place.table + "/" + it.place.name
	}
	return it.etcdKey
}

// seals is with which keys the values are sealed that are sealed, or are to be; and which of them cannot be read.
type seals struct {
	by     map[string]string // names of keys, by etcd key
	unread map[string]unread // by etcd key
}

// unread is a value that cannot be read.
type unread struct {
	name, by, why string
	revision      int64
}

func newSeals() seals { return seals{by: map[string]string{}, unread: map[string]unread{}} }

// take notes an item that is in the view from now on.
func (s seals) take(t Transformer, it *item) {
	delete(s.by, it.etcdKey)
	delete(s.unread, it.etcdKey)
	if it.deleted {
		return
	}
	if u := it.whyUnreadable(); u != nil {
		s.unread[it.etcdKey] = unread{name: it.name(), by: u.by, why: u.Error(), revision: it.rev}
	} else if it.err == nil && (it.by != "" || t.Seals(it.etcdKey)) {
		s.by[it.etcdKey] = it.by
	}
}

// Seals is what is known of sealed values.
type Seals struct {
	// By counts the values that are sealed, or are to be, by the name of the key they are sealed with; empty: with none yet.
	By map[string]int
	// Stale counts those that are not sealed as they would be now.
	Stale int
	// Unreadable are values that are there and cannot be read, by name, with the reasons.
	Unreadable map[string]string
}

// Seals returns what is known of sealed values as of the view.
func (s *Store) Seals() Seals {
	s.fold.mu.Lock()
	defer s.fold.mu.Unlock()
	out := Seals{By: map[string]int{}, Unreadable: map[string]string{}}
	for key, by := range s.fold.seals.by {
		out.By[by]++
		if by != s.codec.transformer.Writes(key) {
			out.Stale++
		}
	}
	for _, u := range s.fold.seals.unread {
		out.Unreadable[u.name] = u.why
		out.By[u.by]++
	}
	return out
}

// unreadAt returns why the value at an etcd key cannot be read; empty: it can.
func (f *folder) unreadAt(key string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seals.unread[key].why
}

func (f *folder) unreadCount() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.seals.unread)
}

// stale returns at most so many etcd keys whose values are not sealed as they would be now.
func (f *folder) stale(most int) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var keys []string
	for key, by := range f.seals.by {
		if len(keys) == most {
			break
		}
		if by != f.codec.transformer.Writes(key) {
			keys = append(keys, key)
		}
	}
	return keys
}

// rightKeys returns an error where the data of a first load are sealed with other keys than this process has: one that is not
// here, or one that opens nothing that bears its name. A value that alone cannot be opened among others is damaged.
func rightKeys(items []item) error {
	opened := map[string]bool{}
	for i := range items {
		if items[i].err == nil {
			opened[items[i].by] = true
		}
	}
	for i := range items {
		if u := items[i].whyUnreadable(); u != nil && (errors.Is(u, ErrNoKey) || !opened[u.by]) {
			return fmt.Errorf("%w: cannot read %s: %w", ErrWrongKeys, items[i].name(), u)
		}
	}
	return nil
}

// learn hands the record of keys to the transformer, as it is at a revision; zero: now.
func (s *Store) learn(ctx context.Context, rev int64) error {
	table, name := s.codec.transformer.Record()
	if table == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	resp, err := s.client.Get(ctx, s.keys.record(table, name), clientv3.WithRev(rev))
	if err != nil {
		return fmt.Errorf("cannot read with which keys values are sealed: %w", err)
	}
	var kv *mvccpb.KeyValue
	if len(resp.Kvs) > 0 {
		kv = resp.Kvs[0]
	}
	return s.learnFrom(kv)
}

func (s *Store) learnFrom(kv *mvccpb.KeyValue) error {
	var data []byte
	if kv != nil {
		v, err := s.codec.open(string(kv.Key), kv.Value)
		if err != nil {
			return fmt.Errorf("cannot read with which keys values are sealed: %w", err)
		}
		data = v.payload
	}
	if err := s.codec.transformer.Learn(data); err != nil {
		return fmt.Errorf("%w: %w", ErrWrongKeys, err)
	}
	return nil
}

// learnFirst hands the record of keys to the transformer where it is among the events, before any of them is decoded.
func (s *Store) learnFirst(events []*clientv3.Event) error {
	table, name := s.codec.transformer.Record()
	if table == "" {
		return nil
	}
	key := s.keys.record(table, name)
	for _, e := range events {
		if string(e.Kv.Key) == key && e.Type != clientv3.EventTypeDelete {
			if err := s.learnFrom(e.Kv); err != nil {
				return err
			}
		}
	}
	return nil
}

// maxRewrite is how many values one call of Rewrite writes anew at most: a transaction's worth of reads.
const maxRewrite = 100

// Rewrite seals some values anew that are not sealed as they would be now, through a leader's committer, and returns how many;
// zero: none is left. What has changed meanwhile has been sealed by that. Objects get another resourceVersion, and are the same.
func (s *Store) Rewrite(ctx context.Context, by Committer) (int, error) {
	keys := s.fold.stale(maxRewrite)
	if len(keys) == 0 {
		return 0, nil
	}
	units, err := s.sealedAnew(ctx, keys)
	if err != nil || len(units) == 0 {
		return 0, err
	}
	c := &call{results: make([]Result, len(units)), missing: len(units), done: make(chan struct{})}
	for i, u := range units {
		if l, ok := by.(*leaderCommitter); ok {
			u.guard = l.guard
		}
		u.call, u.index = c, i
	}
	reached, done := int64(0), 0
	for _, r := range s.writer.commit(ctx, slices.Values(units), c) {
		switch {
		case r.Err == nil:
			reached = max(reached, r.Revision)
			done++
		case !errors.Is(r.Err, ErrConflict):
			return done, fmt.Errorf("cannot seal values anew: %w", r.Err)
		}
	}
	_, err = s.Wait(ctx, reached)
	return done, err
}

// sealedAnew returns a unit for each of the keys that is still there, which writes what it has as it would be sealed now.
func (s *Store) sealedAnew(ctx context.Context, keys []string) ([]*unit, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	gets := make([]clientv3.Op, len(keys))
	for i, key := range keys {
		gets[i] = clientv3.OpGet(key)
	}
	resp, err := s.client.Txn(ctx).Then(gets...).Commit()
	if err != nil {
		return nil, fmt.Errorf("cannot read values to seal anew: %w", err)
	}
	var units []*unit
	for _, r := range resp.Responses {
		for _, kv := range r.GetResponseRange().Kvs {
			v, err := s.codec.open(string(kv.Key), kv.Value)
			if err != nil {
				continue // changed since, and told by the view
			}
			value, err := s.codec.seal(string(kv.Key), v.encoding, v.payload)
			if err != nil {
				return nil, fmt.Errorf("cannot seal %s anew: %w", kv.Key, err)
			}
			u := &unit{one: [1]change{{key: string(kv.Key), value: value, lease: clientv3.LeaseID(kv.Lease), want: kv.ModRevision}},
				size: len(kv.Key) + len(value)}
			u.changes = u.one[:]
			units = append(units, u)
		}
	}
	return units, nil
}

// Discard deletes a value that is there and cannot be read, by its name among Seals' Unreadable. It is an error that there is none.
func (s *Store) Discard(ctx context.Context, name string) error {
	s.fold.mu.Lock()
	var u *unit
	for key, is := range s.fold.seals.unread {
		if is.name == name {
			u = &unit{one: [1]change{{key: key, want: is.revision}}, size: len(key)}
			u.changes = u.one[:]
		}
	}
	s.fold.mu.Unlock()
	if u == nil {
		return fmt.Errorf("cannot discard %s: there is no value of this name that cannot be read", name)
	}
	c := &call{results: make([]Result, 1), missing: 1, done: make(chan struct{})}
	u.call = c
	r := s.writer.commit(ctx, slices.Values([]*unit{u}), c)[0]
	if r.Err != nil {
		return fmt.Errorf("cannot discard %s: %w", name, r.Err)
	}
	_, err := s.Wait(ctx, r.Revision)
	return err
}

// unreadRecord is the row of a record that is there and cannot be read.
func unreadRecord(p place, rev int64, why string) *view.Record {
	return &view.Record{Table: p.table, Name: p.name, Revision: rev, Unreadable: why}
}
