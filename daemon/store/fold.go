package store

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"sync"

	"go.etcd.io/etcd/api/v3/mvccpb"
	coordinationv1 "k8s.io/api/coordination/v1"

	"lockstep/daemon/store/view"
	"lockstep/kinds"
)

// item is one etcd event or key, decoded.
type item struct {
	etcdKey string
	place   place
	rev     int64
	deleted bool
	object  kinds.Object
	record  *view.Record
	beats   *coordinationv1.LeaseList
	err     error // the key or value cannot be decoded; or the cluster key says to stop
}

// parallelFrom is how many items are worth spreading over the processors: some 5 µs of decoding each.
const parallelFrom = 64

// decodeAll decodes n items, on all processors where there are many.
func decodeAll(n int, decode func(int) item) []item {
	out := make([]item, n)
	workers := min(runtime.GOMAXPROCS(0), n/parallelFrom+1)
	var wg sync.WaitGroup
	for w := 1; w < workers; w++ {
		wg.Go(func() {
			for i := w * n / workers; i < (w+1)*n/workers; i++ {
				out[i] = decode(i)
			}
		})
	}
	for i := range n / workers {
		out[i] = decode(i)
	}
	wg.Wait()
	return out
}

// folder turns what etcd says into changes of the view. Only brokenAt and beatsOf may be called beside the one goroutine that folds.
type folder struct {
	keys  keyspace
	codec codec

	mu sync.Mutex // for the readers; only the folding goroutine writes
	// beats holds the heartbeats by the etcd key they came in, then by node.
	beats  map[string]map[string]*coordinationv1.Lease
	broken map[string]int64 // mod revisions of the values that cannot be decoded, by etcd key
}

func newFolder(keys keyspace, c codec) *folder {
	return &folder{keys: keys, codec: c, beats: map[string]map[string]*coordinationv1.Lease{}, broken: map[string]int64{}}
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

// decode reads one key; kv.Value is not kept.
func (f *folder) decode(kv *mvccpb.KeyValue, deleted bool) item {
	it := item{etcdKey: string(kv.Key), rev: kv.ModRevision, deleted: deleted}
	it.place, it.err = f.keys.parse(it.etcdKey)
	if it.err != nil || deleted {
		return it
	}
	switch it.place.part {
	case objectPart, eventPart:
		it.object, it.err = f.codec.decode(it.etcdKey, it.place.key, kv.Value, it.rev)
	case recordPart:
		it.record, it.err = f.codec.decodeRecord(it.etcdKey, it.place, kv.Value, it.rev)
	case heartbeatPart:
		it.beats = &coordinationv1.LeaseList{}
		if err := f.codec.decodeInto(it.etcdKey, kv.Value, it.beats); err != nil {
			it.err = fmt.Errorf("cannot decode heartbeats %s: %w", it.place.name, err)
		}
	case clusterPart:
		_, it.err = parseCluster(kv.Value)
	}
	return it
}

// changes folds items, in etcd's order, over the view they follow. A value that cannot be decoded counts as absent.
// Errs are those of the items; one that matches ErrNewerFormat means stop.
func (f *folder) changes(v *view.View, items []item) (out []view.Change, errs []error) {
	out = make([]view.Change, 0, len(items))
	objects := map[kinds.Key]kinds.Object{} // as changed by earlier items
	records := map[string]*view.Record{}
	live := func(k kinds.Key) kinds.Object {
		if o, ok := objects[k]; ok {
			return o
		}
		return v.Get(k)
	}
	setObject := func(k kinds.Key, o kinds.Object, rev int64) {
		if old := live(k); old != nil || o != nil {
			out = append(out, view.Change{Key: k, Old: old, New: o, Revision: rev})
			objects[k] = o
		}
	}
	for _, it := range items {
		f.markBroken(it)
		if it.err != nil {
			errs = append(errs, it.err)
		}
		switch it.place.part {
		case objectPart, eventPart:
			setObject(it.place.key, it.object, it.rev)
		case recordPart:
			id := it.place.table + "/" + it.place.name
			old, ok := records[id]
			if !ok {
				if r, ok := v.Record(it.place.table, it.place.name); ok {
					old = &r
				}
			}
			if old != nil || it.record != nil {
				out = append(out, view.Change{OldRecord: old, NewRecord: it.record, Revision: it.rev})
				records[id] = it.record
			}
		case heartbeatPart:
			for _, node := range f.replaceBeats(it) {
				k := leaseKey(node)
				if l := f.newest(node); l == nil {
					setObject(k, nil, it.rev)
				} else if old, ok := live(k).(*coordinationv1.Lease); !ok || !sameBeat(old, l) {
					setObject(k, withRevision(l, it.rev), it.rev)
				}
			}
		}
	}
	return out, errs
}

func (f *folder) markBroken(it item) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if it.err != nil && !it.deleted && !errors.Is(it.err, ErrNewerFormat) {
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
	f.broken = map[string]int64{}
	f.beats = map[string]map[string]*coordinationv1.Lease{}
	f.mu.Unlock()
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
				if ok {
					c.OldRecord = &old
				}
				out = append(out, c)
			}
			continue
		}
		objects[c.Key] = true
		if c.Old = v.Get(c.Key); c.Old == nil || c.Old.GetResourceVersion() != c.New.GetResourceVersion() {
			out = append(out, c)
		}
	}
	for _, kind := range kinds.All {
		for o := range v.List(kind.GroupResource(), "") {
			if k := kinds.KeyOf(o); !objects[k] {
				out = append(out, view.Change{Key: k, Old: o, Revision: rev})
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
