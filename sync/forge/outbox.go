package forge

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"lockstep/store"
	"lockstep/store/view"
	"lockstep/sync/verdict"
)

const (
	// maxEntries bounds the outbox and the memory of a source: some hours of pushes while the forge is away. The
	// oldest go first.
	maxEntries = 128

	// backoffBase doubles to backoffMax: posting goes on soon after the forge is back, and until then costs it a request a
	// minute and source.
	backoffBase = time.Second
	backoffMax  = time.Minute
)

// Options of an Outbox. Store and Commit are required.
type Options struct {
	Store  store.Reader
	Commit store.Committer
	Log    *slog.Logger
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
	// Seed of the jitter. Zero is a seed like any other.
	Seed uint64
	// Registerer may be nil: metrics are kept and not exported. It must bear the metrics of a later outbox replacing
	// those of an earlier one.
	Registerer prometheus.Registerer
}

// Outbox keeps wanted statuses in the store until their forge has them. At least once: what was decided is posted even
// if this process ends in between; where that leaves a doubt, the forge is asked and only a difference is posted.
type Outbox struct {
	opts  Options
	posts *prometheus.CounterVec

	mu      sync.Mutex
	wakes   map[string]chan struct{} // of those that post, by source
	refused map[string]string        // why the last attempt failed, by source
	mine    map[string]bool          // entries this process wrote and has not tried: no doubt about them
}

// NewOutbox returns an outbox; it starts nothing.
func NewOutbox(opts Options) *Outbox {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	o := &Outbox{opts: opts, wakes: map[string]chan struct{}{}, mine: map[string]bool{}, refused: map[string]string{}}
	o.posts = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "lockstep_forge_posts_total",
		Help: "Commit statuses, by result: posted, same (found there already), error."}, []string{"source", "result"})
	depth := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "lockstep_forge_outbox",
		Help: "Commit statuses waiting for their forge."}, func() float64 {
		n := 0.0
		for range verdict.Outbox.Names(opts.Store.View(), "") {
			n++
		}
		return n
	})
	if opts.Registerer != nil {
		opts.Registerer.MustRegister(o.posts, depth)
	}
	return o
}

// Put keeps a status until its forge has it, in the place of one of the same revision and kind that waits. One that waits
// already, or was the last posted, is not put again.
func (o *Outbox) Put(ctx context.Context, e verdict.Entry) error {
	v := o.opts.Store.View()
	_, isWaiting := v.Record(string(verdict.Outbox), e.Name())
	if last, ok := verdict.Last(v, e.Name()); ok && last.Status == e.Status {
		return nil
	}
	o.mu.Lock()
	o.mine[e.Name()] = !isWaiting || o.mine[e.Name()]
	o.mu.Unlock()
	g := store.Group{put(verdict.Outbox, e)}
	for _, old := range surplus(v, e) {
		g = append(g, store.Write{Record: old, If: store.Anyway, Reason: "outbox"})
	}
	if err := o.commit(ctx, g); err != nil {
		return fmt.Errorf("cannot keep the status of revision %s: %w", e.Revision, err)
	}
	o.poke(e.Source)
	return nil
}

// surplus are the oldest records of the entry's source beyond the bound, at most 32 at a time.
func surplus(v *view.View, e verdict.Entry) []*view.Record {
	var out []*view.Record
	for _, table := range tables() {
		var all []view.Row[verdict.Entry]
		for row := range table.Rows(v, e.Source+"/") { // what cannot be read is the oldest
			if row.Name != e.Name() {
				all = append(all, row)
			}
		}
		if len(all) <= maxEntries {
			continue
		}
		slices.SortFunc(all, func(a, b view.Row[verdict.Entry]) int { return a.Value.At.Compare(b.Value.At) })
		for _, row := range all[:min(32, len(all)-maxEntries)] {
			out = append(out, table.Gone(row.Name))
		}
	}
	return out
}

// Told returns the last status of every revision of a source and each kind: on its forge, or on the way there.
func (o *Outbox) Told(source string) []verdict.Told {
	v := o.opts.Store.View()
	var all []verdict.Told
	for row, err := range verdict.Outbox.Rows(v, source+"/") {
		if err == nil {
			all = append(all, verdict.Told{Entry: row.Value, Waiting: true})
		}
	}
	for row, err := range verdict.Posted.Rows(v, source+"/") {
		if _, waiting := v.Record(string(verdict.Outbox), row.Name); !waiting && err == nil {
			all = append(all, verdict.Told{Entry: row.Value})
		}
	}
	return all
}

// Refused is why the last attempt to post a status of a source failed; empty where it did not.
func (o *Outbox) Refused(source string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.refused[source]
}

func (p *poster) tell(why string) {
	p.outbox.mu.Lock()
	p.outbox.refused[p.source] = why
	p.outbox.mu.Unlock()
}

// Forget drops everything about a source that nobody posts for.
func (o *Outbox) Forget(ctx context.Context, source string) error {
	var g store.Group
	for _, table := range tables() {
		for name := range table.Names(o.opts.Store.View(), source+"/") {
			g = append(g, store.Write{Record: table.Gone(name), If: store.Anyway, Reason: "source removed"})
		}
	}
	for part := range slices.Chunk(g, store.MaxGroup) {
		if err := o.commit(ctx, part); err != nil {
			return err
		}
	}
	o.mu.Lock()
	delete(o.refused, source)
	o.mu.Unlock()
	return nil
}

func (o *Outbox) poke(source string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.wakes[source] <- struct{}{}:
	default: // it is awake, or nobody posts
	}
}

// Post posts what is in the outbox of a source, in its own time, until ctx ends; it then returns nil. Only one Post of a
// source may run at a time. What was put before it is posted, too.
func (o *Outbox) Post(ctx context.Context, source string, f Forge) error {
	wake := make(chan struct{}, 1)
	o.mu.Lock()
	o.wakes[source] = wake
	o.mu.Unlock()
	defer func() {
		o.mu.Lock()
		delete(o.wakes, source)
		o.mu.Unlock()
	}()
	name := fnv.New64a()
	name.Write([]byte(source))
	p := &poster{
		outbox: o, source: source, forge: f, wake: wake, random: rand.New(rand.NewPCG(o.opts.Seed, name.Sum64())),
		log: o.opts.Log.With("source", source),
	}
	p.run(ctx)
	return nil
}

func (o *Outbox) commit(ctx context.Context, g store.Group) error {
	if len(g) == 0 {
		return nil
	}
	r := o.opts.Commit.Commit(ctx, g)[0]
	if r.Err != nil {
		return r.Err
	}
	_, err := o.opts.Store.Wait(ctx, r.Revision)
	return err
}

func put(table view.Table[verdict.Entry], e verdict.Entry) store.Write {
	return store.Write{Record: table.Record(e.Name(), e), If: store.Anyway, Reason: "commit status"}
}

func tables() []view.Table[verdict.Entry] {
	return []view.Table[verdict.Entry]{verdict.Outbox, verdict.Posted}
}

// poster posts the entries of one source, the oldest first.
type poster struct {
	outbox   *Outbox
	source   string
	forge    Forge
	wake     chan struct{}
	random   *rand.Rand
	log      *slog.Logger
	failures int
}

func (p *poster) run(ctx context.Context) {
	for ctx.Err() == nil {
		wait := p.post(ctx)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-p.wakeUnlessFailing():
		}
		timer.Stop()
	}
}

// wakeUnlessFailing keeps new entries from cutting a backoff short.
func (p *poster) wakeUnlessFailing() <-chan struct{} {
	if p.failures > 0 {
		return nil
	}
	return p.wake
}

// idle is how often the outbox is looked at without being woken: it costs a look into memory.
const idle = 5 * time.Second

func (p *poster) post(ctx context.Context) time.Duration {
	entries := p.entries()
	for _, e := range entries {
		err := p.one(ctx, e, len(entries) > 0 && e.Revision != entries[len(entries)-1].Revision)
		if ctx.Err() != nil {
			return 0
		}
		if err != nil {
			p.outbox.posts.WithLabelValues(p.source, "error").Inc()
			wait := p.backoff(err)
			p.tell(err.Error())
			p.log.Warn("cannot post a commit status", "revision", e.Revision, "state", e.Status.State, "error", err, "again", wait)
			return wait
		}
		p.failures = 0
		p.tell("")
	}
	return idle
}

func (p *poster) entries() []verdict.Entry {
	var entries []verdict.Entry
	for row, err := range verdict.Outbox.Rows(p.outbox.opts.Store.View(), p.source+"/") {
		if err != nil {
			p.log.Error("cannot decode an outbox entry", "record", row.Name)
			continue
		}
		entries = append(entries, row.Value)
	}
	slices.SortFunc(entries, func(a, b verdict.Entry) int {
		if c := a.At.Compare(b.At); c != 0 {
			return c
		}
		return strings.Compare(a.Name(), b.Name())
	})
	return entries
}

// one brings one entry to the forge. superseded says that a newer revision waits behind it.
func (p *poster) one(ctx context.Context, e verdict.Entry, superseded bool) error {
	doubt := p.takeDoubt(e)
	same := false
	var err error
	if doubt {
		var last verdict.Status
		last, same, err = p.forge.Last(ctx, e.Revision, e.Status.Context)
		same = same && last == e.Status
	}
	if err == nil && !same {
		err = p.forge.Post(ctx, e.Revision, e.Status)
	}
	var refusal *Refusal
	if errors.As(err, &refusal) {
		if !doubt {
			p.certain(e)
		}
		if refusal.Unknowable() && superseded {
			p.log.Warn("a commit status is given up, the forge does not know the commit and a newer one waits", "revision",
				e.Revision, "error", err)
			return p.done(ctx, e)
		}
	}
	if err != nil {
		return err
	}
	outcome := "posted"
	if same {
		outcome = "same"
	}
	p.outbox.posts.WithLabelValues(p.source, outcome).Inc()
	p.log.Info("commit status", "revision", e.Revision, "state", e.Status.State, "description", e.Status.Description, "outcome", outcome)
	return p.done(ctx, e)
}

// takeDoubt says whether the entry may have been posted by an earlier attempt, and notes that there is one now.
func (p *poster) takeDoubt(e verdict.Entry) bool {
	p.outbox.mu.Lock()
	defer p.outbox.mu.Unlock()
	doubt := !p.outbox.mine[e.Name()]
	delete(p.outbox.mine, e.Name())
	return doubt
}

func (p *poster) certain(e verdict.Entry) {
	p.outbox.mu.Lock()
	defer p.outbox.mu.Unlock()
	p.outbox.mine[e.Name()] = true
}

// done moves an entry from the outbox to the posted ones. Where it was replaced meanwhile the replacement stays.
func (p *poster) done(ctx context.Context, e verdict.Entry) error {
	now, ok, err := verdict.Outbox.Get(p.outbox.opts.Store.View(), e.Name())
	posted := e
	posted.At = p.outbox.opts.Now()
	g := store.Group{put(verdict.Posted, posted)}
	if ok && err == nil && now.Value.Status == e.Status {
		g = append(g, store.Write{Record: verdict.Outbox.Gone(e.Name()), If: now.Revision, Reason: "commit status"})
	} else if ok {
		p.certain(e) // the replacement has not been tried
	}
	err = p.outbox.commit(ctx, g)
	if errors.Is(err, store.ErrConflict) {
		p.certain(e)
		err = p.outbox.commit(ctx, g[:1])
	}
	return err
}

// backoff returns how long to wait after one more failure; never less than the forge asked for.
func (p *poster) backoff(err error) time.Duration {
	d := min(backoffMax, backoffBase<<min(p.failures, 6))
	p.failures++
	d = d/2 + time.Duration(p.random.Int64N(int64(d/2)+1))
	var refusal *Refusal
	if errors.As(err, &refusal) {
		d = max(d, refusal.After)
	}
	return d
}
