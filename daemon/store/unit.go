package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"lockstep/kinds"
)

// unit is one group, compiled: what it requires, what it writes.
type unit struct {
	keys  []string // each once
	cmps  []clientv3.Cmp
	ops   []clientv3.Op
	size  int    // bytes of its keys and values
	guard *guard // nil: anyone may write
	call  *call
	index int // of its result in the call
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
	// lease returns the etcd lease that new events are attached to.
	lease func(context.Context) (clientv3.LeaseID, error)
}

// compile returns the unit of a group, or why it can never be written.
func (c compiler) compile(ctx context.Context, g Group) (*unit, error) {
	if len(g) > MaxGroup {
		return nil, fmt.Errorf("cannot write %d changes at once, %d is the most: %w", len(g), MaxGroup, ErrTooLarge)
	}
	u := &unit{keys: make([]string, 0, len(g)), ops: make([]clientv3.Op, 0, len(g))}
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
	key, op, size, err := c.op(ctx, w)
	if err != nil {
		return err
	}
	for _, k := range u.keys {
		if k == key {
			return errors.New("the group has it twice")
		}
	}
	if w.If != Anyway {
		want := w.If
		if want == 0 {
			want = c.broken(key)
		}
		u.cmps = append(u.cmps, clientv3.Compare(clientv3.ModRevision(key), "=", want))
	}
	u.keys = append(u.keys, key)
	u.ops = append(u.ops, op)
	u.size += size
	return nil
}

func (c compiler) op(ctx context.Context, w Write) (key string, op clientv3.Op, size int, err error) {
	var value []byte
	switch {
	case w.Record != nil:
		key = c.keys.record(w.Record.Table, w.Record.Name)
		if w.Record.Data == nil {
			return key, clientv3.OpDelete(key), len(key), nil
		}
		value, err = c.codec.encodeRecord(key, w.Record)
	case w.Object == nil:
		key = c.keys.object(w.Key)
		return key, clientv3.OpDelete(key), len(key), nil
	default:
		if k := kinds.KeyOf(w.Object); w.Key != k {
			return "", clientv3.Op{}, 0, fmt.Errorf("the object is %v", k)
		}
		key = c.keys.object(w.Key)
		value, err = c.codec.encode(key, Stamped(w.Object, w.If == 0 || w.If == Anyway, c.now()))
	}
	if err == nil && len(value) > maxValue {
		err = fmt.Errorf("it has %d bytes, %d is the most: %w", len(value), maxValue, ErrTooLarge)
	}
	if err != nil {
		return "", clientv3.Op{}, 0, err
	}
	var opts []clientv3.OpOption
	if w.Record == nil && isEvent(w.Key) {
		lease, err := c.lease(ctx)
		if err != nil {
			return "", clientv3.Op{}, 0, err
		}
		opts = append(opts, clientv3.WithLease(lease))
	}
	op = clientv3.OpPut(key, "", opts...)
	op.WithValueBytes(value) // as a string it would be copied twice
	return key, op, len(key) + len(value), nil
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
	cmps = guardOf(units)
	for _, u := range units {
		cmps, ops = append(cmps, u.cmps...), append(ops, u.ops...)
	}
	return cmps, ops
}

// nestedTxn merges units of one guard into one transaction. Each unit is a nested transaction of its own, so that a
// condition that fails spoils only its unit.
func nestedTxn(units []*unit) (cmps []clientv3.Cmp, ops []clientv3.Op) {
	ops = make([]clientv3.Op, len(units))
	for i, u := range units {
		ops[i] = clientv3.OpTxn(u.cmps, u.ops, nil)
	}
	return guardOf(units), ops
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

// Revision returns the etcd mod revision an object of a view has: the If of a Write decided from it. Zero for an object
// that did not come from a store.
func Revision(o kinds.Object) int64 {
	rev, err := strconv.ParseInt(o.GetResourceVersion(), 10, 64)
	if err != nil {
		return 0
	}
	return rev
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
		op := clientv3.OpDelete(key)
		if value != nil {
			op = clientv3.OpPut(key, string(value))
		}
		units = append(units, &unit{
			keys: []string{key}, ops: []clientv3.Op{op}, size: len(key) + len(value), call: c, index: len(units),
		})
	}
	for _, r := range s.writer.commit(ctx, slices.Values(units), c) {
		if r.Err != nil {
			return r.Err
		}
	}
	return nil
}
