package store

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"

	"lockstep/internal/sleep"
)

const (
	// beatEvery is how often a leader writes its key while others wait to lead; while nobody does it writes nothing.
	beatEvery = 500 * time.Millisecond
	// leaderPatience is how long a leader may be silent before it is doubted: three beats that are late by a beat. Being wrong costs a
	// change of leaders and nothing else, since a leader writes nothing without its key.
	leaderPatience = 2 * time.Second
	// doubtLeast is how long a doubted leader has at least to show itself; else twice what the doubter's own write took, so that where
	// etcd is slow nobody loses the lead for that.
	doubtLeast = 250 * time.Millisecond
	// overseeEvery is how often the candidates are looked at, and the pause after they could not be.
	overseeEvery = 250 * time.Millisecond
)

// rival is a candidate: its key, as etcd has it.
type rival struct {
	id           string
	created, mod int64
	seen         time.Time // when it was written last, by this process's clock
}

// overseer looks after who leads and who waits to, from one candidate's place: a leader beats, and who waits takes the key of a leader
// away that does not.
type overseer struct {
	store *Store
	id    string
	mine  string // key
	lease clientv3.LeaseID
	lost  func() // the candidate's key is gone

	rivals map[string]*rival
	first  string    // the key of who leads
	since  time.Time // since when
	beaten time.Time
	doubt  doubt
}

// doubt is a suspicion of a leader: if its key is still of that revision at that time, it is taken away.
type doubt struct {
	key   string
	mod   int64
	until time.Time
}

// Leader is the id of who led when that was last known. Empty: it was never known.
func (s *Store) Leader() string {
	if id := s.leader.Load(); id != nil {
		return *id
	}
	return ""
}

// run works until ctx ends.
func (o *overseer) run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := o.follow(ctx); err != nil && ctx.Err() == nil {
			o.store.log.Debug("cannot follow who leads", "error", err)
		}
		sleep.For(ctx, overseeEvery)
	}
}

// follow reads the candidates and follows them until that fails or ctx ends.
func (o *overseer) follow(ctx context.Context) error {
	read, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	prefix := o.store.keys.leader() + "/"
	now, err := o.store.client.Get(read, prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	o.rivals = map[string]*rival{}
	for _, kv := range now.Kvs {
		o.rivals[string(kv.Key)] = &rival{id: string(kv.Value), created: kv.CreateRevision, mod: kv.ModRevision, seen: time.Now()}
	}
	watching, stop := context.WithCancel(metadata.AppendToOutgoingContext(clientv3.WithRequireLeader(ctx), "lockstep-stream", "leader"))
	defer stop()
	changes := o.store.client.Watch(watching, prefix, clientv3.WithPrefix(), clientv3.WithRev(now.Header.Revision+1))
	tick := time.NewTicker(overseeEvery)
	defer tick.Stop()
	for {
		o.order()
		var look <-chan time.Time
		if len(o.rivals) > 1 { // a single server is not woken for this
			look = tick.C
		}
		select {
		case resp, ok := <-changes:
			if err := resp.Err(); !ok || err != nil {
				return fmt.Errorf("the watch has ended: %w", err)
			}
			o.take(resp.Events)
		case <-look:
			o.act(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

func (o *overseer) take(events []*clientv3.Event) {
	for _, e := range events {
		key := string(e.Kv.Key)
		if e.Type == clientv3.EventTypeDelete {
			delete(o.rivals, key)
			if key == o.mine {
				o.lost()
			}
			continue
		}
		o.rivals[key] = &rival{id: string(e.Kv.Value), created: e.Kv.CreateRevision, mod: e.Kv.ModRevision, seen: time.Now()}
	}
}

// order finds who leads: the oldest candidate.
func (o *overseer) order() {
	first := ""
	for key, r := range o.rivals {
		if first == "" || r.created < o.rivals[first].created {
			first = key
		}
	}
	if first == "" {
		return
	}
	if first != o.first {
		o.first, o.since = first, time.Now()
	}
	o.store.leader.Store(&o.rivals[first].id)
}

// act beats where this candidate leads, and doubts the leader where another does and is silent.
func (o *overseer) act(ctx context.Context) {
	if o.first == o.mine {
		if time.Since(o.beaten) >= beatEvery {
			o.beat(ctx)
		}
		return
	}
	leader := o.rivals[o.first]
	heard := leader.seen
	if o.since.After(heard) {
		heard = o.since
	}
	switch {
	case time.Since(heard) < leaderPatience:
		o.doubt = doubt{}
	case o.doubt.key != o.first || o.doubt.mod != leader.mod:
		o.suspect(ctx, leader)
	case time.Now().After(o.doubt.until):
		o.depose(ctx, leader)
		o.doubt = doubt{}
	}
}

// beat writes the leader's key.
func (o *overseer) beat(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, leaderPatience)
	defer cancel()
	o.beaten = time.Now()
	if done, err := o.touch(ctx); err == nil && !done {
		o.lost()
	}
}

// touch writes this candidate's key, if it has it.
func (o *overseer) touch(ctx context.Context) (done bool, err error) {
	mine := o.rivals[o.mine]
	if mine == nil {
		return false, nil
	}
	ctx, end := o.store.epochs.within(ctx)
	defer end()
	resp, err := o.store.client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(o.mine), "=", mine.created)).
		Then(clientv3.OpPut(o.mine, o.id, clientv3.WithLease(o.lease))).Commit()
	if err != nil {
		return false, err
	}
	return resp.Succeeded, nil
}

// suspect gives a silent leader a last while, by how long etcd takes for a write now.
func (o *overseer) suspect(ctx context.Context, leader *rival) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	start := time.Now()
	if done, err := o.touch(ctx); err != nil || !done {
		return // nobody can write, or this one is no candidate any more
	}
	took := time.Since(start)
	o.doubt = doubt{key: o.first, mod: leader.mod, until: time.Now().Add(max(doubtLeast, 2*took))}
}

// depose takes the key of a leader away that has not been written since it was doubted.
func (o *overseer) depose(ctx context.Context, leader *rival) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	ctx, end := o.store.epochs.within(ctx)
	defer end()
	resp, err := o.store.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(o.first), "=", leader.mod)).
		Then(clientv3.OpDelete(o.first)).Commit()
	if err == nil && resp.Succeeded {
		o.store.log.Warn("the leader is silent: another takes over", "leader", leader.id, "silent for", time.Since(leader.seen))
	}
}
