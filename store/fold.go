package store

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"go.etcd.io/etcd/api/v3/mvccpb"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"

	"lockstep/internal/spread"
	"lockstep/kinds"
	"lockstep/store/view"
)

// item is one etcd event or key, decoded.
type item struct {
	etcdKey string
	place   place
	rev     int64
	deleted bool
	object  kinds.Object
	sum     sum // of the object's metadata and spec
	record  *view.Record
	beats   *coordinationv1.LeaseList
	by      string // the name of the key that it was sealed with; empty: with none
	format  int    // of the cluster key
	err     error  // the key or value cannot be decoded; or the cluster key says to stop
}

// parallelFrom is how many items are worth spreading over the processors: some 5 µs of decoding or encoding each.
const parallelFrom = 64

// decodeAll decodes n items, on all processors where there are many.
func decodeAll(n int, decode func(int) item) []item {
	out := make([]item, n)
	spread.Over(n, parallelFrom, func(i int) { out[i] = decode(i) })
	return out
}

// folder turns what etcd says into changes of the view. Only decode, brokenAt and beatsOf may be called beside the one
// goroutine that folds.
type folder struct {
	keys  keyspace
	codec codec
	sums  *sums
	specs *specs

	mu sync.Mutex // for the readers; only the folding goroutine writes
	// beats holds the heartbeats by the etcd key they came in, then by node.
	beats  map[string]map[string]*coordinationv1.Lease
	broken map[string]int64 // mod revisions of the values that cannot be decoded, by etcd key
	seals  seals
	format int // of the data, by the cluster key; zero: not read yet
}

func newFolder(keys keyspace, c codec) *folder {
	return &folder{keys: keys, codec: c, sums: newSums(), specs: newSpecs(),
		beats: map[string]map[string]*coordinationv1.Lease{}, broken: map[string]int64{}, seals: newSeals()}
}

func (f *folder) brokenAt(key string) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.broken[key]
}

func (f *folder) brokenCount() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.broken)
}

// decode reads one key, beside a view of which the object there may have parts already; kv.Value is not kept.
func (f *folder) decode(v *view.View, kv *mvccpb.KeyValue, deleted bool) item {
	it := item{etcdKey: string(kv.Key), rev: kv.ModRevision, deleted: deleted}
	it.place, it.err = f.keys.parse(it.etcdKey)
	if it.err != nil || deleted {
		return it
	}
	switch it.place.part {
	case objectPart, eventPart:
		it.object, it.sum, it.by, it.err = f.decodeObject(v, it, kv.Value)
	case recordPart:
		it.record, it.by, it.err = f.decodeRecord(it, kv.Value)
	case heartbeatPart:
		it.beats = &coordinationv1.LeaseList{}
		if err := f.codec.decodeInto(it.etcdKey, kv.Value, it.beats); err != nil {
			it.err = fmt.Errorf("cannot decode heartbeats %s: %w", it.place.name, err)
		}
	case clusterPart:
		var c Cluster
		c, it.err = parseCluster(kv.Value)
		it.format = c.Format
	}
	return it
}

func (f *folder) decodeRecord(it item, value []byte) (r *view.Record, by string, err error) {
	o, err := f.codec.open(it.etcdKey, value)
	if err != nil {
		return nil, "", undecodableRecord(it.place, it.rev, err)
	}
	r, err = f.codec.decodeRecord(it.place, o, it.rev)
	return r, o.by, err
}

func (f *folder) decodeObject(v *view.View, it item, value []byte) (_ kinds.Object, _ sum, by string, _ error) {
	k := it.place.key
	opened, err := f.codec.open(it.etcdKey, value)
	if err != nil {
		return nil, sum{}, "", undecodable(k, it.rev, err)
	}
	o, now, err := f.decodeOpened(v, it, opened)
	return o, now, opened.by, err
}

func (f *folder) decodeOpened(v *view.View, it item, opened opened) (kinds.Object, sum, error) {
	k, payload := it.place.key, opened.payload
	metadata, head := 0, 0
	if opened.encoding == encodingProtobuf {
		metadata, head = headOf(payload)
	}
	if head == 0 {
		o, err := f.codec.decode(k, opened.encoding, payload, it.rev)
		return o, sum{}, err
	}
	now := f.sums.make(it.rev, payload[:head])
	if old := v.Get(k); old != nil && f.sums.same(it.etcdKey, kinds.Revision(old), now) {
		if o := f.codec.followed(old, payload[head:], it.rev); o != nil {
			return o, now, nil
		}
	}
	var o kinds.Object
	var err error
	if kinds.ForResource(k.GroupResource()) == kinds.For[*corev1.Pod]() {
		o, err = f.decodePod(k, payload, metadata, head, it.rev)
	} else {
		o, err = f.codec.decode(k, opened.encoding, payload, it.rev)
	}
	return o, now, err
}

// changes folds items, in etcd's order, over the view they follow; what was there before is for the view to say. A value
// that cannot be decoded counts as absent, but one that is sealed and cannot be opened as there and unreadable. Errs are those of the
// items; one that matches ErrNewerFormat means stop.
func (f *folder) changes(v *view.View, items []item) (out []view.Change, errs []error) {
	f.sums.keep(items)
	out = make([]view.Change, 0, len(items))
	leases := map[string]*coordinationv1.Lease{} // by node, as changed by earlier items
	for _, it := range items {
		f.mark(&it)
		if it.err != nil {
			errs = append(errs, it.err)
		}
		why := ""
		if u := it.whyUnreadable(); u != nil {
			why = u.Error()
		}
		switch it.place.part {
		case objectPart, eventPart:
			if why != "" {
				out = append(out, view.Change{Key: it.place.key, Unreadable: why, Revision: it.rev})
				continue
			}
			out = append(out, view.Change{Key: it.place.key, New: it.object, Revision: it.rev})
		case recordPart:
			c := view.Change{NewRecord: it.record, Revision: it.rev}
			if why != "" {
				c.NewRecord = unreadRecord(it.place, it.rev, why)
			} else if it.record == nil {
				c.OldRecord = &view.Record{Table: it.place.table, Name: it.place.name}
			}
			out = append(out, c)
		case heartbeatPart:
			for _, node := range f.replaceBeats(it) {
				k := leaseKey(node)
				old, ok := leases[node]
				if !ok {
					old, _ = v.Get(k).(*coordinationv1.Lease)
				}
				l := f.newest(node)
				if l != nil && old != nil && sameBeat(old, l) {
					continue
				}
				c := view.Change{Key: k, Revision: it.rev}
				if l != nil {
					l = withRevision(l, it.rev)
					c.New = l
				}
				leases[node] = l
				out = append(out, c)
			}
		}
	}
	return out, errs
}

// mark notes what an item says beside what is in the view.
func (f *folder) mark(it *item) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seals.take(f.codec.transformer, it)
	if it.format > 0 {
		f.format = it.format
	}
	if it.err != nil && !it.deleted && !errors.Is(it.err, ErrNewerFormat) && it.whyUnreadable() == nil {
		f.broken[it.etcdKey] = it.rev
	} else {
		delete(f.broken, it.etcdKey)
	}
}

// replaceBeats takes over one heartbeat key and returns the nodes it had or has, sorted.
func (f *folder) replaceBeats(it item) []string {
	next := map[string]*coordinationv1.Lease{}
	if it.beats != nil {
		for i := range it.beats.Items {
			next[it.beats.Items[i].Name] = &it.beats.Items[i]
		}
	}
	var nodes []string
	for node := range next {
		nodes = append(nodes, node)
	}
	for node := range f.beats[it.etcdKey] {
		if next[node] == nil {
			nodes = append(nodes, node)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.beats[it.etcdKey] = next; len(next) == 0 {
		delete(f.beats, it.etcdKey)
	}
	slices.Sort(nodes)
	return nodes
}

// newest returns the newest heartbeat of a node over all servers, or nil.
func (f *folder) newest(node string) *coordinationv1.Lease {
	var best *coordinationv1.Lease
	for _, shard := range f.beats {
		if l := shard[node]; l != nil && (best == nil || renewed(best).Before(renewed(l))) {
			best = l
		}
	}
	return best
}

// reload returns the changes from a view to a full load at revision rev.
func (f *folder) reload(v *view.View, items []item, rev int64) ([]view.Change, []error) {
	f.mu.Lock()
	f.broken, f.seals = map[string]int64{}, newSeals()
	f.beats = map[string]map[string]*coordinationv1.Lease{}
	f.mu.Unlock()
	f.sums.forget()
	if v.Revision() == 0 {
		return f.changes(v, items)
	}
	all, errs := f.changes(view.Of(), items)
	objects, records := map[kinds.Key]bool{}, map[string]bool{}
	var out []view.Change
	for _, c := range all {
		if r := c.NewRecord; r != nil {
			records[r.Table+"/"+r.Name] = true
			if old, ok := v.Record(r.Table, r.Name); !ok || old.Revision != r.Revision {
				out = append(out, c)
			}
			continue
		}
		if c.Unreadable != "" {
			objects[c.Key] = true
			out = append(out, c)
			continue
		}
		if c.New == nil {
			continue // it cannot be decoded: absent
		}
		objects[c.Key] = true
		if old := v.Get(c.Key); old == nil || old.GetResourceVersion() != c.New.GetResourceVersion() {
			out = append(out, c)
		}
	}
	for _, kind := range kinds.All {
		for o := range v.List(kind.GroupResource(), "") {
			if k := kinds.KeyOf(o); !objects[k] {
				out = append(out, view.Change{Key: k, Revision: rev})
			}
		}
	}
	for r := range v.AllRecords() {
		if !records[r.Table+"/"+r.Name] {
			out = append(out, view.Change{OldRecord: &r, Revision: rev})
		}
	}
	slices.SortStableFunc(out, func(a, b view.Change) int { return int(a.Revision - b.Revision) })
	return out, errs
}

func withRevision(l *coordinationv1.Lease, rev int64) *coordinationv1.Lease {
	l = l.DeepCopy()
	l.ResourceVersion = strconv.FormatInt(rev, 10)
	return l
}
