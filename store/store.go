package store

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"lockstep/internal/spread"
	"lockstep/kinds"
	"lockstep/store/view"
)

// Options of a store. The zero value is usable.
type Options struct {
	// Default sets the defaults of an object that was read, in place. Nil: none are set.
	Default func(kinds.Object)
	// Transformer of the values. Nil: Identity.
	Transformer Transformer
	// Log. Nil: slog.Default().
	Log *slog.Logger
	// Registerer takes the metrics. Nil: they are not registered.
	Registerer prometheus.Registerer
	// Prefix of all keys, ending with a slash. Empty: DefaultPrefix.
	Prefix string
	// Server names this process among those of the cluster; its heartbeats' key. Empty: the host's name.
	Server string
	// BeatEvery is how often heartbeats are written. Zero: 1 s, half the agents' period of renewal, so that one is in the view 3 s
	// after the one before at the latest, of the 10 s that a node may be silent.
	BeatEvery time.Duration
	// Alone says that no other process can reach this etcd while this one lives, as is so for an embedded one without
	// peers: whoever led before is dead, and Lead does not wait for its lease to run out.
	// It is asked each time. Nil: there may be others.
	Alone func() bool
	// Elected returns a channel that is closed when etcd has another leader of its own. Nil: nobody can tell.
	Elected func() <-chan struct{}
	// Version of this binary, written beside each value. Empty: "dev".
	Version string
	// Settings of the cluster, as JSON, if it is made now: its key keeps them. Empty: none are kept.
	Settings json.RawMessage
	// Records are made with the cluster, if it is made now.
	Records []view.Record
	// Rebuild says that nodes run what an empty etcd does not know: its key keeps Cluster.Rebuilding, if it is made now.
	Rebuild bool
	// Restored is the identity that data are to have which were restored from a backup; see Cluster.Rebuilding. Empty: they were not.
	Restored string
	// Now is the clock of creationTimestamp and events. Nil: time.Now.
	Now func() time.Time
}

func (o Options) withDefaults() (Options, error) {
	if o.Transformer == nil {
		o.Transformer = Identity{}
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Prefix == "" {
		o.Prefix = DefaultPrefix
	}
	if o.Prefix[len(o.Prefix)-1] != '/' {
		return o, fmt.Errorf("the prefix %q does not end with a slash", o.Prefix)
	}
	if o.Version == "" {
		o.Version = "dev"
	}
	if len(o.Version) > 255 {
		return o, fmt.Errorf("the version has %d bytes, 255 is the most", len(o.Version))
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Alone == nil {
		o.Alone = func() bool { return false }
	}
	if o.Elected == nil {
		o.Elected = func() <-chan struct{} { return nil }
	}
	if o.BeatEvery == 0 {
		o.BeatEvery = time.Second
	}
	if o.Server == "" {
		host, err := os.Hostname()
		if err != nil {
			return o, fmt.Errorf("cannot name this server: %w", err)
		}
		o.Server = host
	}
	return o, nil
}

// Store is the typed store in etcd with its view. All methods may be called by any number of goroutines at once.
type Store struct {
	client  *clientv3.Client
	keys    keyspace
	codec   codec
	log     *slog.Logger
	metrics *metrics
	cluster Cluster
	server  string
	alone   func() bool
	leader  atomic.Pointer[string]
	now     func() time.Time

	db       *view.DB
	fold     *folder
	writer   *writer
	epochs   *epochs
	compiler compiler
	reads    *currentReads
	steps    *currentReads
	events   *recorder
	beats    *heartbeats
	state    health

	ready     chan struct{}
	readyOnce sync.Once
	watching  atomic.Pointer[context.Context] // of the running watch, for asking where it is

	mu   sync.Mutex
	subs map[*Subscription]struct{}
}

var _ Backend = (*Store)(nil)

// Open reads the cluster's identity, or makes one in an empty etcd, and refuses data that a newer Lockstep wrote. It
// starts nothing: see Run. The client stays the caller's.
func Open(ctx context.Context, client *clientv3.Client, opts Options) (*Store, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("cannot open the store: %w", err)
	}
	keys := keyspace(opts.Prefix)
	coding := codec{version: opts.Version, transformer: opts.Transformer, defaults: opts.Default}
	cluster, err := openCluster(ctx, client, keys, coding, opts)
	if err != nil {
		return nil, fmt.Errorf("cannot open the store: %w", err)
	}
	s := &Store{
		client: client, keys: keys, log: opts.Log, metrics: newMetrics(opts.Registerer), cluster: cluster,
		server: opts.Server, alone: opts.Alone, now: opts.Now, db: view.NewDB(),
		codec: coding,
		ready: make(chan struct{}), subs: map[*Subscription]struct{}{},
	}
	if err := s.learn(ctx, 0); err != nil {
		return nil, fmt.Errorf("cannot open the store: %w", err)
	}
	s.fold = newFolder(s.keys, s.codec)
	s.fold.format = cluster.Format
	s.reads = newCurrentReads(s.readRevision)
	s.steps = newCurrentReads(s.step)
	s.epochs = newEpochs(opts.Elected)
	s.writer = newWriter(client, s.metrics, s.probe, s.answered)
	s.writer.epoch = s.epochs.now
	leases := &eventLeases{client: client, now: opts.Now}
	s.compiler = compiler{
		keys: keys, codec: s.codec, now: opts.Now, broken: s.fold.brokenAt, unread: s.fold.unreadAt, lease: leases.get,
		scratch: newScratch(),
	}
	s.events = newRecorder(s, opts.Now)
	s.beats = newHeartbeats(s, opts.BeatEvery)
	s.state.set(stateLoading, nil)
	return s, nil
}

// Cluster returns the cluster's identity.
func (s *Store) Cluster() Cluster { return s.cluster }

// Run loads the view, follows etcd and carries out writes until ctx ends; then it returns nil, when everything it
// started has ended. It returns an error only where this binary may not go on: a newer one has taken over the data.
func (s *Store) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.follow(ctx) })
	g.Go(func() error { s.writer.run(ctx); return nil })
	g.Go(func() error { s.epochs.run(ctx); return nil })
	g.Go(func() error { s.reads.run(ctx); return nil })
	g.Go(func() error { s.steps.run(ctx); return nil })
	g.Go(func() error { s.events.run(ctx); return nil })
	g.Go(func() error { s.beats.run(ctx); return nil })
	g.Go(func() error { return s.watchHealth(ctx) })
	return g.Wait()
}

// Ready is closed once the first view is complete.
func (s *Store) Ready() <-chan struct{} { return s.ready }

// View returns the newest view.
func (s *Store) View() *view.View { return s.db.View() }

// Wait returns the first view it sees at revision rev or later.
func (s *Store) Wait(ctx context.Context, rev int64) (*view.View, error) {
	if v := s.db.View(); v.Revision() >= rev {
		return v, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Where etcd is shared, a revision may have nothing of ours in it: only the watch can say that it has passed.
	timer := time.AfterFunc(progressDelay, func() { s.askProgress(ctx, rev) })
	defer timer.Stop()
	return s.db.Wait(ctx, rev)
}

// Subscribe tells of every batch applied after it returns.
func (s *Store) Subscribe(name string) *Subscription {
	sub := NewSubscription(name, func(sub *Subscription) {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.subs, sub)
		if sub.Overflowed() {
			s.metrics.overflows.WithLabelValues(name).Inc()
		}
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subs[sub] = struct{}{}
	return sub
}

// publish makes the changes the newest view, then tells the subscribers.
func (s *Store) publish(rev int64, changes []view.Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	changes = s.db.Apply(rev, changes)
	s.metrics.revision.Set(float64(rev))
	s.metrics.applied.Add(float64(len(changes)))
	// Also a batch without changes: it tells subscribers how far the store is.
	batch := Batch{View: s.db.View(), Changes: changes}
	for sub := range s.subs {
		sub.Offer(batch)
	}
}

// compiledAtOnce is how many groups are compiled before the first of them is sent: two transactions' worth, so that one is on its way
// soon, and all processors have their share of it.
const compiledAtOnce = 256

// Commit writes the groups; see Committer.
func (s *Store) Commit(ctx context.Context, groups ...Group) []Result {
	return s.commit(ctx, nil, groups)
}

func (s *Store) commit(ctx context.Context, by *guard, groups []Group) []Result {
	if len(groups) == 0 {
		return nil
	}
	c := &call{results: make([]Result, len(groups)), missing: len(groups), done: make(chan struct{})}
	return s.writer.commit(ctx, func(yield func(*unit) bool) {
		for from := 0; from < len(groups); from += compiledAtOnce {
			for _, u := range s.compile(ctx, by, c, groups[:min(from+compiledAtOnce, len(groups))], from) {
				if u != nil && !yield(u) {
					return
				}
			}
		}
	}, c)
}

// compile returns the units of the groups from one on, on all processors where there are many. What is nil has its result already.
func (s *Store) compile(ctx context.Context, by *guard, c *call, groups []Group, from int) []*unit {
	units := make([]*unit, len(groups)-from)
	spread.Over(len(units), parallelFrom, func(i int) {
		index := from + i
		g := s.beats.divert(groups[index])
		if len(g) == 0 {
			c.set(index, Result{Revision: max(s.db.View().Revision(), 1)})
			return
		}
		u, err := s.compiler.compile(ctx, g)
		if err != nil {
			c.set(index, Result{Err: err})
			return
		}
		u.guard, u.call, u.index = by, c, index
		units[i] = u
	})
	return units
}
