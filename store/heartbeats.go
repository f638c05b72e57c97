package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"

	"lockstep/kinds"
	"lockstep/store/view"
)

const (
	// beatsPerKey keeps a value near 200 kB at some 200 bytes a node.
	beatsPerKey = 1000
	// forgetAfter is when the heartbeat of a node that is no longer registered is dropped.
	forgetAfter = time.Minute
	// missed is how many periods of writing go without a node's renewal, of which there is one in two, until its next one is
	// written at once: it may count as silent soon, or does.
	missed = 3
)

// heartbeats collects the renewals of the nodes that speak to this server and writes them grouped, a key for each
// beatsPerKey nodes, once a period.
type heartbeats struct {
	store *Store
	every time.Duration
	prod  chan struct{} // a node's first renewal does not wait for the period, nor does the first after a silence

	mu    sync.Mutex
	mine  map[string]beat // by node
	dirty bool
	keys  int // shards written last time
}

// beat is a node's newest heartbeat, and when it was received by this server's clock.
type beat struct {
	lease    *coordinationv1.Lease
	received time.Time
}

func newHeartbeats(s *Store, every time.Duration) *heartbeats {
	return &heartbeats{store: s, every: every, prod: make(chan struct{}, 1), mine: map[string]beat{}}
}

// Renew takes a node's heartbeat; see Backend.
func (s *Store) Renew(node string, lease *coordinationv1.Lease) { s.beats.renew(node, lease) }

func (b *heartbeats) renew(node string, lease *coordinationv1.Lease) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now, last := b.store.now(), b.mine[node]
	before := last.lease
	if before == nil {
		before, _ = view.Get[*coordinationv1.Lease](b.store.View(), nodeLeases, node)
	}
	if now.Sub(last.received) > missed*b.every { // also if it was never received
		select {
		case b.prod <- struct{}{}:
		default:
		}
	}
	b.mine[node] = beat{lease: Beat(node, lease, before, now), received: now}
	b.dirty = true
}

// Beat returns the heartbeat to keep for a node: the lease given, with the identity of the one before, or a new one
// where before is nil.
func Beat(node string, lease, before *coordinationv1.Lease, now time.Time) *coordinationv1.Lease {
	out := &coordinationv1.Lease{Spec: *lease.Spec.DeepCopy()}
	out.Name, out.Namespace = node, nodeLeases
	out.Labels, out.Annotations = lease.Labels, lease.Annotations
	out.OwnerReferences = lease.OwnerReferences
	out = out.DeepCopy()
	if before != nil {
		out.UID, out.CreationTimestamp = before.UID, before.CreationTimestamp
	} else {
		out.UID, out.CreationTimestamp = uuid.NewUUID(), metav1.NewTime(now.Truncate(time.Second))
	}
	if out.Spec.RenewTime == nil {
		out.Spec.RenewTime = &metav1.MicroTime{Time: now}
	}
	return out
}

// run writes once a period until ctx ends.
func (b *heartbeats) run(ctx context.Context) {
	select {
	case <-b.store.ready:
	case <-ctx.Done():
		return
	}
	b.adopt()
	tick := time.NewTicker(b.every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-b.prod:
		case <-ctx.Done():
			return
		}
		if err := b.flush(ctx); err != nil && ctx.Err() == nil {
			b.store.warn(ctx, "cannot write heartbeats", "error", err)
		}
	}
}

// adopt takes over what an earlier process of this name has written, so that a restart loses no node.
func (b *heartbeats) adopt() {
	held := b.store.fold.beatsOf(b.store.server)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.keys = len(held)
	for _, shard := range held {
		for node, l := range shard {
			if b.mine[node].lease == nil {
				b.mine[node] = beat{lease: l, received: b.store.now()}
			}
		}
	}
}

// flush writes the shards where something was renewed.
func (b *heartbeats) flush(ctx context.Context) error {
	b.mu.Lock()
	b.forgetGone()
	if !b.dirty {
		b.mu.Unlock()
		return nil
	}
	nodes := make([]*coordinationv1.Lease, 0, len(b.mine))
	for _, m := range b.mine {
		nodes = append(nodes, m.lease)
	}
	before := b.keys
	b.dirty = false
	b.mu.Unlock()

	slices.SortFunc(nodes, func(x, y *coordinationv1.Lease) int { return strings.Compare(x.Name, y.Name) })
	group, shards, err := b.writes(nodes, before)
	if err == nil {
		err = b.store.writeRaw(ctx, group)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		b.dirty = true
		return err
	}
	b.keys = shards
	return nil
}

// writes returns the values of all shards, and nil for those of the last time that are no longer needed.
func (b *heartbeats) writes(nodes []*coordinationv1.Lease, before int) (values map[string][]byte, shards int, err error) {
	values = map[string][]byte{}
	for chunk := range slices.Chunk(nodes, beatsPerKey) {
		list := &coordinationv1.LeaseList{}
		for _, l := range chunk {
			list.Items = append(list.Items, *l)
		}
		key := b.key(shards)
		if values[key], err = b.store.codec.encodeProtobuf(key, list); err != nil {
			return nil, 0, fmt.Errorf("cannot encode heartbeats: %w", err)
		}
		shards++
	}
	for i := shards; i < before; i++ {
		values[b.key(i)] = nil
	}
	return values, shards, nil
}

func (b *heartbeats) key(shard int) string {
	key := b.store.keys.heartbeats() + b.store.server
	if shard > 0 {
		key += fmt.Sprintf("/%04d", shard)
	}
	return key
}

// forgetGone drops nodes that have no Node object, or a newer heartbeat through another server.
func (b *heartbeats) forgetGone() {
	v, now := b.store.View(), b.store.now()
	for node, m := range b.mine {
		old := now.Sub(m.received) > forgetAfter
		_, registered := view.Get[*corev1.Node](v, "", node)
		seen, _ := view.Get[*coordinationv1.Lease](v, nodeLeases, node)
		moved := seen != nil && renewed(m.lease).Before(renewed(seen))
		if old && (!registered || moved) {
			delete(b.mine, node)
			b.dirty = true
		}
	}
}

// divert takes the writes of heartbeat leases out of a group: they have keys of their own.
func (b *heartbeats) divert(g Group) Group {
	i := slices.IndexFunc(g, func(w Write) bool { return w.Record == nil && isHeartbeat(w.Key) })
	if i < 0 {
		return g
	}
	rest := slices.Clone(g[:i])
	for _, w := range g[i:] {
		switch l, _ := w.Object.(*coordinationv1.Lease); {
		case w.Record != nil || !isHeartbeat(w.Key):
			rest = append(rest, w)
		case l != nil:
			b.renew(w.Key.Name, l)
		default:
			b.forget(w.Key.Name)
		}
	}
	return rest
}

func (b *heartbeats) forget(node string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mine[node].lease == nil {
		return
	}
	delete(b.mine, node)
	b.dirty = true
	select {
	case b.prod <- struct{}{}:
	default:
	}
}

func leaseKey(node string) kinds.Key { return kinds.For[*coordinationv1.Lease]().Key(nodeLeases, node) }

var never = &metav1.MicroTime{}

func renewed(l *coordinationv1.Lease) *metav1.MicroTime {
	if l.Spec.RenewTime == nil {
		return never
	}
	return l.Spec.RenewTime
}

func sameBeat(a, b *coordinationv1.Lease) bool { return a.UID == b.UID && renewed(a).Equal(renewed(b)) }

// beatsOf returns the shards a server has written.
func (f *folder) beatsOf(server string) map[string]map[string]*coordinationv1.Lease {
	out := map[string]map[string]*coordinationv1.Lease{}
	f.mu.Lock()
	defer f.mu.Unlock()
	base := f.keys.heartbeats() + server
	for key, shard := range f.beats {
		if key == base || strings.HasPrefix(key, base+"/") {
			out[key] = shard
		}
	}
	return out
}
