package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"lockstep/kinds"
)

// unit is one group, compiled: what it requires, what it writes.
type unit struct {
	changes []change // each key once
	size    int      // bytes of its keys and values
	guard   *guard   // nil: anyone may write
	call    *call
	index   int // of its result in the call

	one [1]change // the changes of most: one allocation less
}

// change is what a unit does at one key.
type change struct {
	key   string
	value []byte // nil: the key is deleted
	lease clientv3.LeaseID
	// want is the mod revision the key must have; Anyway: any.
	want int64
}

// guard is the condition under which a leader's writes happen. Units are merged only with those of the same guard.
type guard struct{ cmp clientv3.Cmp }

// compiler turns groups into units.
type compiler struct {
	keys  keyspace
	codec codec
	now   func() time.Time
	// broken returns the mod revision of a value that cannot be decoded, and so is not in the view, or zero.
	broken func(key string) int64
	// unread returns why a value is there and cannot be read; empty: it can, or there is none.
	unread func(key string) string
	// lease returns the etcd lease that new events are attached to.
	lease func(context.Context) (clientv3.LeaseID, error)
	// scratch holds the copies of objects that are made to be encoded.
	scratch scratch
}

// compile returns the unit of a group, or why it can never be written.
func (c compiler) compile(ctx context.Context, g Group) (*unit, error) {
	if len(g) > MaxGroup {
		return nil, fmt.Errorf("cannot write %d changes at once, %d is the most: %w", len(g), MaxGroup, ErrTooLarge)
	}
	u := &unit{}
	if u.changes = u.one[:0]; len(g) > len(u.one) {
		u.changes = make([]change, 0, len(g))
	}
	for _, w := range g {
		if err := c.add(ctx, u, w); err != nil {
			return nil, fmt.Errorf("cannot write %s: %w", describe(w), err)
		}
	}
	if u.size > maxTxnBytes {
		return nil, fmt.Errorf("cannot write %d changes of %d bytes at once: %w", len(g), u.size, ErrTooLarge)
	}
	return u, nil
}

func (c compiler) add(ctx context.Context, u *unit, w Write) error {
	next, err := c.change(ctx, w)
	if err != nil {
		return err
	}
	for i := range u.changes {
		if u.changes[i].key == next.key {
			return errors.New("the group has it twice")
		}
	}
	u.changes = append(u.changes, next)
	u.size += len(next.key) + len(next.value)
	return nil
}

func (c compiler) change(ctx context.Context, w Write) (next change, err error) {
	switch {
	case w.Record != nil:
		next.key = c.keys.record(w.Record.Table, w.Record.Name)
		if w.Record.Data != nil {
			next.value, err = c.codec.encodeRecord(next.key, w.Record)
		}
	case w.Object == nil:
		next.key = c.keys.object(w.Key)
	default:
		if k := kinds.KeyOf(w.Object); w.Key != k {
			return change{}, fmt.Errorf("the object is %v", k)
		}
		next.key = c.keys.object(w.Key)
		next.value, err = c.encode(next.key, w)
		if err == nil && isEvent(w.Key) {
			next.lease, err = c.lease(ctx)
		}
	}
	if err == nil && len(next.value) > maxValue {
		err = fmt.Errorf("it has %d bytes, %d is the most: %w", len(next.value), maxValue, ErrTooLarge)
	}
	if why := c.unread(next.key); err == nil && why != "" {
		err = fmt.Errorf("%w, and is kept as it is: %s", ErrUnreadable, why)
	}
	if next.want = w.If; w.If == 0 {
		next.want = c.broken(next.key)
	}
	return next, err
}

func (c compiler) encode(key string, w Write) ([]byte, error) {
	stamped := c.scratch.take(w.Object)
	defer c.scratch.give(stamped)
	stamp(stamped, w.If == 0 || w.If == Anyway, c.now())
	return c.codec.encode(key, stamped)
}

func describe(w Write) string {
	if w.Record != nil {
		return "record " + w.Record.Table + "/" + w.Record.Name
	}
	return w.Key.String()
}

// Etcd's own limits are 128 operations, counted along the deepest nesting, and 1.5 MiB a request. Ours leave it room for
// what a request carries beside keys and values.
const (
	maxTxnOps   = 127
	maxTxnBytes = 1<<20 + 64<<10 // one largest value with its key always fits
)

// flatTxn merges units of one guard into one transaction that happens only if no unit has a conflict. It costs etcd half
// of what nested transactions do, and conflicts are rare.
func flatTxn(units []*unit) (cmps []clientv3.Cmp, ops []clientv3.Op) {
	cmps = append(make([]clientv3.Cmp, 0, maxTxnOps+1), guardOf(units)...)
	ops = make([]clientv3.Op, 0, maxTxnOps)
	for _, u := range units {
		cmps, ops = u.compares(cmps), u.puts(ops)
	}
	return cmps, ops
}

// nestedTxn merges units of one guard into one transaction. Each unit is a nested transaction of its own, so that a
// condition that fails spoils only its unit.
func nestedTxn(units []*unit) (cmps []clientv3.Cmp, ops []clientv3.Op) {
	ops = make([]clientv3.Op, len(units))
	for i, u := range units {
		ops[i] = clientv3.OpTxn(u.compares(nil), u.puts(nil), nil)
	}
	return guardOf(units), ops
}

// compares appends what a unit requires.
func (u *unit) compares(to []clientv3.Cmp) []clientv3.Cmp {
	for i := range u.changes {
		if c := &u.changes[i]; c.want != Anyway {
			to = append(to, clientv3.Compare(clientv3.ModRevision(c.key), "=", c.want))
		}
	}
	return to
}

// blankPut is copied: making an Op anew costs half a kilobyte of garbage.
var blankPut = clientv3.OpPut("", "")

// puts appends what a unit writes.
func (u *unit) puts(to []clientv3.Op) []clientv3.Op {
	for i := range u.changes {
		c := &u.changes[i]
		switch {
		case c.value == nil:
			to = append(to, clientv3.OpDelete(c.key))
			continue
		case c.lease != 0:
			to = append(to, clientv3.OpPut("", "", clientv3.WithLease(c.lease)))
		default:
			to = append(to, blankPut)
		}
		op := &to[len(to)-1]
		op.WithKeyBytes([]byte(c.key))
		op.WithValueBytes(c.value) // as a string it would be copied twice
	}
	return to
}

func guardOf(units []*unit) []clientv3.Cmp {
	if g := units[0].guard; g != nil {
		return []clientv3.Cmp{g.cmp}
	}
	return nil
}

// results reads etcd's answer to nestedTxn(units).
func results(units []*unit, resp *clientv3.TxnResponse) []Result {
	out := make([]Result, len(units))
	for i := range units {
		switch {
		case !resp.Succeeded:
			out[i].Err = ErrDeposed
		case !resp.Responses[i].GetResponseTxn().Succeeded:
			out[i].Err = ErrConflict
		default:
			out[i].Revision = resp.Header.Revision
		}
	}
	return out
}

// writeRaw writes values that are not objects or records, without a condition, each for itself; nil deletes. It returns
// the first error.
func (s *Store) writeRaw(ctx context.Context, values map[string][]byte) error {
	if len(values) == 0 {
		return nil
	}
	c := &call{results: make([]Result, len(values)), missing: len(values), done: make(chan struct{})}
	var units []*unit
	for key, value := range values {
		u := &unit{one: [1]change{{key: key, value: value, want: Anyway}}, size: len(key) + len(value), call: c, index: len(units)}
		u.changes = u.one[:]
		units = append(units, u)
	}
	for _, r := range s.writer.commit(ctx, slices.Values(units), c) {
		if r.Err != nil {
			return r.Err
		}
	}
	return nil
}
