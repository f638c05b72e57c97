// Package watch keeps windows of what has changed in the store, and the clients' watches that read them.
package watch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apistorage "k8s.io/apiserver/pkg/storage"

	"lockstep/daemon/provenance"
	"lockstep/kinds"
	"lockstep/store"
	"lockstep/store/view"
)

const (
	// freshWait is how long a read waits for a revision that the view has not reached; Kubernetes' watch cache waits as
	// long.
	freshWait = 3 * time.Second
)

// Options of a Hub. Store is required.
type Options struct {
	Store store.Backend
	// Judge is told of changes before any client is; all says that others may have been missed. Nil: nobody is.
	Judge func(v *view.View, changes []view.Change, all bool)
	// Registerer takes the metrics. Nil: they are not registered.
	Registerer prometheus.Registerer
	// Log. Nil: slog.Default().
	Log *slog.Logger
	// Now. Nil: time.Now.
	Now func() time.Time
}

// Hub feeds one window a kind from the store's batches and hands out the view they lead to: what a client lists and what
// it then watches come from the same place.
type Hub struct {
	store   store.Backend
	log     *slog.Logger
	origins *provenance.Finder
	ledger  *ledger
	metrics *metrics
	judge   func(v *view.View, changes []view.Change, all bool)
	now     func() time.Time

	mu      sync.Mutex
	view    *view.View
	windows map[schema.GroupResource]*window // nil until the first view is complete
	moved   chan struct{}                    // closed and replaced whenever view is
	kept    kept
}

// New returns a hub; it starts nothing.
func New(opts Options) *Hub {
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Judge == nil {
		opts.Judge = func(*view.View, []view.Change, bool) {}
	}
	origins := provenance.New()
	return &Hub{store: opts.Store, log: opts.Log, origins: origins, ledger: newLedger(origins), metrics: newMetrics(opts.Registerer),
		judge: opts.Judge, now: opts.Now, view: view.NewDB().View(), moved: make(chan struct{})}
}

// Origins says where objects come from.
func (h *Hub) Origins() *provenance.Finder { return h.origins }

// begin replaces all windows: those before, if any, tell their watchers to list again.
func (h *Hub) begin(v *view.View, windows map[schema.GroupResource]*window) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range h.windows {
		w.expire()
	}
	h.windows = windows
	h.ledger.prune(v)
	h.move(v)
}

func (h *Hub) move(v *view.View) {
	h.view = v
	close(h.moved)
	h.moved = make(chan struct{})
}

// historyRevisions is how many of etcd's revisions before its start a server reads, so that watches resume across a
// restart: half a window where each has two changes of a kind.
const historyRevisions = windowEvents / 2

// Run follows the store until ctx ends, from when its first view is complete.
func (h *Hub) Run(ctx context.Context) {
	select {
	case <-h.store.Ready():
	case <-ctx.Done():
	}
	for ctx.Err() == nil {
		sub := h.store.Subscribe("api")
		h.follow(ctx, sub)
		sub.Close()
		if sub.Overflowed() {
			h.log.Warn("the API fell behind the store and starts its windows anew")
		}
	}
}

func (h *Hub) follow(ctx context.Context, sub *store.Subscription) {
	first := h.store.View()
	h.judge(first, nil, true)
	h.seed(ctx, first)
	for {
		select {
		case <-ctx.Done():
			return
		case batch, ok := <-sub.C:
			if !ok {
				return
			}
			if batch.View.Revision() > first.Revision() {
				h.apply(batch)
			}
		}
	}
}

// seed starts the windows with what the store remembers from before its first view.
func (h *Hub) seed(ctx context.Context, first *view.View) {
	rev := first.Revision()
	since, changes, err := h.store.History(ctx, max(0, rev-historyRevisions), rev)
	if err != nil {
		if ctx.Err() == nil {
			h.log.Warn("cannot read the store's history: clients list again", "error", err)
		}
		since, changes = rev, nil
	}
	// Somebody may have been cut among the events of revision since itself; but where nothing has happened after it, it
	// is also what is listed now.
	windows := map[schema.GroupResource]*window{}
	for _, k := range kinds.All {
		windows[k.GroupResource()] = newWindow(k, h, min(since+1, rev))
	}
	// Heartbeats are not part of the history: what was seen of them may not even be all of rev.
	windows[kinds.For[*coordinationv1.Lease]().GroupResource()].lost = rev + 1
	was := func(o kinds.Object) *provenance.Origin { return h.origins.Find(first, o) }
	fill(windows, rev, h.objects(changes, was, was))
	h.begin(first, windows)
}

// apply adds a batch to the windows, then shows its view: what is listed is never ahead of what is watched.
func (h *Hub) apply(b store.Batch) {
	h.mu.Lock()
	windows, before := h.windows, h.view
	h.mu.Unlock()
	h.judge(b.View, b.Changes, false)
	never := func(kinds.Object) bool { return false }
	was := func(o kinds.Object) *provenance.Origin { return h.ledger.of(before, o, never) }
	is := func(o kinds.Object) *provenance.Origin { return h.ledger.made(b.View, o) }
	fill(windows, b.View.Revision(), h.objects(b.Changes, was, is))
	h.mu.Lock()
	defer h.mu.Unlock()
	h.kept.pass(b.Changes, h.now())
	h.move(b.View)
}

// objects sorts the changes of objects by kind, each with where its states come from; of the others the provenance of what is
// gone is forgotten.
func (h *Hub) objects(changes []view.Change, was, is func(kinds.Object) *provenance.Origin) map[schema.GroupResource][]traced {
	byKind := map[schema.GroupResource][]traced{}
	for _, c := range changes {
		if c.NewRecord != nil || c.OldRecord != nil {
			continue
		}
		t := traced{Change: c}
		if c.Old != nil {
			t.was = was(c.Old)
		}
		if c.New != nil {
			t.is = is(c.New)
		}
		byKind[c.Key.GroupResource()] = append(byKind[c.Key.GroupResource()], t)
	}
	for _, c := range changes {
		h.origins.Forget(c) // only now: changes beside it have asked for it
	}
	return byKind
}

// fill adds changes up to revision rev to every window, also to those that none concerns, which it moves there.
func fill(windows map[schema.GroupResource]*window, rev int64, byKind map[schema.GroupResource][]traced) {
	for gr, w := range windows {
		w.append(rev, byKind[gr])
	}
}

// Begun says whether there is anything to read yet.
func (h *Hub) Begun() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.windows != nil
}

// View is the view that the windows lead to.
func (h *Hub) View() *view.View {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.view
}

// at returns a view and the window of a kind that leads to it or further.
func (h *Hub) at(gr schema.GroupResource) (*view.View, *window) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.view, h.windows[gr]
}

// Wait returns a complete view at revision rev or later, or Kubernetes' "Too large resource version" after freshWait.
func (h *Hub) Wait(ctx context.Context, rev int64) (*view.View, error) {
	ctx, cancel := context.WithTimeout(ctx, freshWait)
	defer cancel()
	for {
		h.mu.Lock()
		v, moved, begun := h.view, h.moved, h.windows != nil
		h.mu.Unlock()
		if begun && v.Revision() >= rev {
			return v, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return nil, fmt.Errorf("cannot wait for revision %d: %w", rev, ctx.Err())
			}
			return nil, apistorage.NewTooLargeResourceVersionError(uint64(rev), uint64(v.Revision()), 1)
		}
	}
}

// Reach returns a view at a revision that a client names, or later. A revision that the store has not reached, by a read
// no older than the request, is of a history that the store has lost, and never comes: 410 Expired at once, upon which
// clients list anew. "Too large resource version" is for a server that lags behind its store; clients wait for it, ten times.
func (h *Hub) Reach(ctx context.Context, rev int64) (*view.View, error) {
	if h.View().Revision() < rev {
		if now, err := h.store.Current(ctx); err == nil && now < rev {
			return nil, fromTheFuture(rev, now)
		}
	}
	return h.Wait(ctx, rev)
}

// Whole returns a view from whose revision a watch resumes without a repetition. Where several objects that the list is about
// changed in the view's revision, a watch from it must begin with all of them, since its client may have been cut among them; one
// that has just listed them would see them twice. So the list is of a later revision, made for it where there is none.
// Where none can be made, the events come twice.
func (h *Hub) Whole(ctx context.Context, f *Filter, v *view.View) *view.View {
	_, window := h.at(f.kind.GroupResource())
	if window.exact(v.Revision(), f) {
		return v
	}
	rev, err := h.store.Step(ctx)
	if err != nil {
		return v
	}
	if later, err := h.Wait(ctx, rev); err == nil {
		return later
	}
	return v
}

// Close ends every watch: clients come back to another server, or to this one when it is up again.
func (h *Hub) Close() {
	h.mu.Lock()
	windows := h.windows
	h.mu.Unlock()
	for _, w := range windows {
		w.close()
	}
}

// Keep holds a view for the lists that continue from it, for some minutes from when it was the newest.
func (h *Hub) Keep(v *view.View) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.kept.keep(v, v.Revision() == h.view.Revision(), h.now())
}

// Snapshot returns the view of exactly that revision, or nil where it is not kept.
func (h *Hub) Snapshot(rev int64) *view.View {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.view.Revision() == rev {
		return h.view
	}
	return h.kept.at(rev, h.now())
}
