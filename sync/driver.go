package sync

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"lockstep/kinds"
	"lockstep/kinds/v1alpha1"
	"lockstep/store"
	"lockstep/sync/apply"
	"lockstep/sync/forge"
	"lockstep/sync/plan"
	"lockstep/sync/source"
	"lockstep/sync/verdict"
)

const (
	// passGap is the least time between two passes that nobody pushed for: one pass sees all changes of a rollout's step.
	passGap = 100 * time.Millisecond
	// passShare bounds what passes cost of a core: after one that took t comes a rest of at least passShare·t.
	passShare = 5
	// redecide is how often a revision that the cluster's state refuses is planned again: the namespace it lacks may
	// come from another source.
	redecide = 5 * time.Second
	// retryBase and retryMax space the attempts after the store's errors.
	retryBase, retryMax = 100 * time.Millisecond, 10 * time.Second
)

// driver brings one source's revisions into the store, keeps them there, and judges.
type driver struct {
	sync    *Sync
	source  v1alpha1.Source
	watcher source.Watcher
	posts   bool // it has a forge
	applier *apply.Applier
	outbox  *forge.Outbox
	commit  store.Committer
	inbox   *inbox
	log     *slog.Logger

	seen     *source.Revision // newest; nil before the first
	read     reading          // of seen
	believe  time.Time        // when errors of read are to be believed; zero: they are
	doubt    doubt            // of what seen has lost
	told     string           // the newest revision that was decided on
	over     []string         // revisions passed over, not told yet
	decided  bool             // seen has been accepted, refused or held
	refusal  []string         // why it is refused
	planned  bool             // the refusal is the plan's, and may pass
	held     string
	fetchErr string

	dirty   map[kinds.Key]bool // to converge
	all     bool               // converge everything
	outcome apply.Outcome
	owned   []plan.Desired // what the inbox was told

	failures failures
	drifts   drifts
	memory   verdict.Memory
	took     time.Duration // of the last pass
	ended    time.Time
}

func newDriver(f *fleet, src v1alpha1.Source, w source.Watcher, posts bool) *driver {
	return &driver{
		sync: f.sync, source: src, watcher: w, posts: posts, applier: f.applier, outbox: f.outbox, commit: f.commit,
		drifts: drifts{keeper: f.keeper, source: src.Name}, inbox: newInbox(), all: true, log: f.sync.opts.Log.With("source", src.Name),
	}
}

// run passes until ctx ends.
func (d *driver) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-d.inbox.wake:
			if !d.rest(ctx) {
				return nil
			}
		}
		wait := d.pass(ctx)
		timer.Reset(wait)
	}
}

// rest keeps passes apart that only the cluster's own changes ask for; a push does not wait.
func (d *driver) rest(ctx context.Context) bool {
	for {
		wait := time.Until(d.ended.Add(max(passGap, passShare*d.took)))
		if wait <= 0 || d.inbox.pushed() {
			return ctx.Err() == nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-timer.C:
		case <-d.inbox.wake:
		}
		timer.Stop()
	}
}

// pass takes what is new, makes it so, judges, and returns how long to wait if nothing happens.
func (d *driver) pass(ctx context.Context) time.Duration {
	started := time.Now()
	defer func() { d.took, d.ended = time.Since(started), time.Now() }()
	d.take(ctx, d.inbox.take())
	again, err := d.step(ctx)
	if ctx.Err() != nil {
		return 0
	}
	if err != nil {
		d.sync.metrics.errors.WithLabelValues(d.source.Name).Inc()
		return d.failures.next(ctx, d.log, "cannot follow the source", err)
	}
	d.failures = 0
	return again
}

// failures counts those in a row.
type failures int

// next counts one more, logs it unless the store is away, which tells that itself, and returns when to try again.
func (f *failures) next(ctx context.Context, log *slog.Logger, what string, err error) time.Duration {
	wait := min(retryMax, retryBase<<min(*f, 10))
	*f++
	level := slog.LevelWarn
	if store.Outage(err) {
		level = slog.LevelDebug
	}
	log.Log(ctx, level, what, "error", err, "again", wait)
	return wait
}

func (d *driver) take(ctx context.Context, l letter) {
	d.all = d.all || l.all
	d.drifts.found = append(d.drifts.found, l.found...)
	for k := range l.keys {
		if d.dirty == nil {
			d.dirty = map[kinds.Key]bool{}
		}
		d.dirty[k] = true
	}
	if l.update == nil {
		return
	}
	d.fetchErr = ""
	if l.update.Err != nil {
		d.fetchErr = l.update.Err.Error()
		return
	}
	d.receive(ctx, l.update.Revision, l.replaced)
}

// receive reads a new revision.
func (d *driver) receive(ctx context.Context, rev *source.Revision, replaced []string) {
	started := time.Now()
	read := d.sync.reader(d.source.Name).read(ctx, rev, d.source.Spec.IgnoreKinds)
	d.sync.metrics.took("read", started)
	if read.unread != nil {
		d.log.Info("a revision could not be read, a newer look follows", "revision", rev.ID, "error", read.unread)
		d.watcher.Poke()
		return
	}
	for _, note := range rev.Ignored {
		d.log.Info("left out of the source", "entry", note)
	}
	d.passed(rev, replaced)
	d.seen, d.read, d.decided, d.refusal, d.planned, d.held, d.believe, d.doubt = rev, read, false, nil, false, "", time.Time{}, doubt{}
	// What a folder has just become may be half of what is being written.
	if d.source.Spec.Folder != "" && len(read.errors) > 0 {
		d.believe = d.sync.opts.Now().Add(source.Settle)
	}
}

// step decides, converges and judges once.
func (d *driver) step(ctx context.Context) (time.Duration, error) {
	next := later{}
	if err := d.decide(ctx, &next); err != nil {
		return 0, err
	}
	if err := d.converge(ctx, &next); err != nil {
		return 0, err
	}
	if err := d.tell(ctx, &next); err != nil {
		return 0, err
	}
	d.sync.looked(d.source.Name, d.seen != nil && (d.decided || d.planned))
	return next.wait(d.sync.opts.Now()), nil
}

// decide accepts, refuses or holds the newest revision, once.
func (d *driver) decide(ctx context.Context, next *later) error {
	now := d.sync.opts.Now()
	switch {
	case d.seen == nil || d.decided:
		return nil
	case !d.settled(ctx, next):
		return ctx.Err()
	case len(d.read.errors) > 0:
		d.conclude("refused", d.read.errors, "", false)
		return nil
	}
	d.sync.accepting.Lock()
	defer d.sync.accepting.Unlock()
	// A half-moved inventory is finished before anything is decided from it.
	if err := d.applier.Finish(ctx, d.source.Name); err != nil {
		return err
	}
	started := time.Now()
	p, problems, err := d.sync.decide(d.applier, d.source, d.seen, d.read, false)
	d.sync.metrics.took("plan", started)
	switch {
	case err != nil:
		return err
	case len(problems) > 0:
		if !d.planned {
			d.conclude("refused", d.read.locate(problems), "", true)
		} else {
			d.refusal = d.read.locate(problems)
		}
		d.decided = false
		next.at(now.Add(redecide))
		return nil
	case p.Held != "":
		return d.hold(ctx, p.Held)
	}
	state, err := apply.Load(d.sync.opts.Store.View(), d.source.Name)
	switch {
	case err != nil:
		return err
	case state.Held == d.seen.ID && p.Loses() > 0 && !p.Revision.AllowPrune:
		return d.hold(ctx, state.HeldFor)
	case d.hesitate(p):
		next.at(d.doubt.due())
		return nil
	}
	started = time.Now()
	if err := d.applier.Accept(ctx, p); err != nil {
		return err
	}
	d.sync.metrics.took("accept", started)
	d.memory.Lost = time.Time{}
	d.conclude("accepted", nil, "", false)
	return nil
}

// hold concludes that the revision is held, which it stays until it may prune or another one comes.
func (d *driver) hold(ctx context.Context, why string) error {
	err := d.applier.Mark(ctx, d.source.Name, func(s *apply.State) { s.Held, s.HeldFor = d.seen.ID, why })
	if err == nil {
		d.conclude("held", nil, why, false)
	}
	return err
}

func (d *driver) conclude(result string, errs []string, held string, planned bool) {
	d.told = d.seen.ID
	d.decided, d.refusal, d.held, d.planned = true, errs, held, planned
	d.sync.metrics.revisions.WithLabelValues(d.source.Name, result).Inc()
	first := held
	if len(errs) > 0 {
		first = errs[0]
	}
	if first == "" {
		d.log.Info("revision accepted", "revision", d.seen.ID, "objects", len(d.read.objects))
		return
	}
	d.log.Warn("revision not applied", "revision", d.seen.ID, "result", result, "errors", len(errs), "first", first)
}

// converge makes the store as the inventory says: everything the first time, else what changed.
func (d *driver) converge(ctx context.Context, next *later) error {
	started := time.Now()
	keys := d.dirty
	if keys == nil {
		keys = map[kinds.Key]bool{}
	}
	for _, s := range slices.Concat(d.outcome.Waiting, d.outcome.Refused, d.outcome.Told) {
		keys[s.Key] = true
	}
	if d.all {
		keys = nil
	}
	if err := d.own(); err != nil {
		return err
	}
	outcome, err := d.applier.Converge(ctx, d.source.Name, keys)
	d.drifts.repaired(outcome.Drifted, d.sync.opts.Now())
	if err != nil {
		return err
	}
	d.drifts.told(outcome.Told, d.sync.opts.Now())
	d.dirty, d.all, d.outcome = nil, false, outcome
	if !outcome.Done() {
		next.at(d.sync.opts.Now().Add(time.Second))
	}
	d.sync.metrics.took("converge", started)
	return d.own()
}

// own tells the inbox which objects are the source's now, if they have changed.
func (d *driver) own() error {
	inventory, err := d.applier.Inventory(d.sync.opts.Store.View(), d.source.Name)
	if err != nil || len(inventory) == len(d.owned) && (len(inventory) == 0 || &inventory[0] == &d.owned[0]) {
		return err
	}
	same := slices.EqualFunc(inventory, d.owned, func(a, b plan.Desired) bool { return a.Key == b.Key })
	d.owned = inventory
	if same {
		return nil
	}
	keys := make(map[kinds.Key]bool, len(inventory))
	for _, e := range inventory {
		keys[e.Key] = true
	}
	d.inbox.own(keys)
	return nil
}

// later gathers when to look again although nothing happens.
type later struct{ due time.Time }

// slowest bounds the wait: a pass over an unchanged source costs little and mends what no wake-up told.
const slowest = 30 * time.Second

func (l *later) at(t time.Time) {
	if !t.IsZero() && (l.due.IsZero() || t.Before(l.due)) {
		l.due = t
	}
}

func (l *later) wait(now time.Time) time.Duration {
	if l.due.IsZero() {
		return slowest
	}
	return min(slowest, max(time.Millisecond, l.due.Sub(now)))
}
