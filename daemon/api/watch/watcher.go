package watch

import (
	"context"
	"math"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"lockstep/kinds"
	"lockstep/store/view"
)

const (
	// bookmarkEvery keeps the revision that an idle client would resume from within the window; Kubernetes sends them
	// once a minute.
	bookmarkEvery = 30 * time.Second
	// bookmarkBeforeEnd is how long before a watch's own timeout it gets a last one, as in Kubernetes.
	bookmarkBeforeEnd = 2 * time.Second
	// watchBuffer smooths the handover to the writing goroutine; the window itself is the queue.
	watchBuffer = 32
)

// watcher is one client's watch of one kind. It implements watch.Interface.
type watcher struct {
	hub       *Hub
	window    *window
	filter    Filter
	place     int
	initial   *view.View // its matching objects are sent first; nil for none
	closing   bool       // the initial objects end with a marked bookmark
	bookmarks bool
	last      bool // the bookmark that is due next is the last one

	out    chan watch.Event
	woken  chan struct{}
	cancel context.CancelFunc
	ctx    context.Context
}

func (w *watcher) start(ctx context.Context) {
	w.out = make(chan watch.Event, watchBuffer)
	w.woken = make(chan struct{}, 1)
	w.ctx, w.cancel = context.WithCancel(ctx)
	w.window.enter(w)
	w.hub.metrics.watchers.WithLabelValues(w.window.kind.Resource).Inc()
	go w.run()
}

// ResultChan implements watch.Interface.
func (w *watcher) ResultChan() <-chan watch.Event { return w.out }

// Stop implements watch.Interface.
func (w *watcher) Stop() { w.cancel() }

// poke makes the watcher look at its window; it never blocks.
func (w *watcher) poke() {
	select {
	case w.woken <- struct{}{}:
	default:
	}
}

// run ends when the client or the timeout does, or the watcher is too slow.
func (w *watcher) run() {
	defer close(w.out)
	defer w.window.leave(w)
	defer w.cancel()
	resource := w.window.kind.Resource
	defer w.hub.metrics.watchers.WithLabelValues(resource).Dec()
	sent := w.hub.metrics.events.WithLabelValues(resource)
	if !w.sendInitial() {
		return
	}
	bookmark := time.NewTimer(w.untilBookmark())
	defer bookmark.Stop()
	due := false
	for {
		events, place, rev, err := w.window.since(w.place)
		if err != nil {
			w.hub.metrics.expired.Inc()
			w.send(failed(err))
			return
		}
		for _, e := range events {
			out, ok := w.translate(e)
			if !ok {
				continue
			}
			if !w.send(out) {
				return
			}
			sent.Inc()
		}
		w.place = place
		// Here every event up to rev has been sent, and only here: a window moves by whole batches.
		if due && w.bookmarks && !w.send(watch.Event{Type: watch.Bookmark, Object: bookmarkOf(w.window.kind, rev)}) {
			return
		}
		due = false
		select {
		case <-w.woken:
		case <-bookmark.C:
			due = true
			bookmark.Reset(w.untilBookmark())
		case <-w.ctx.Done():
			return
		}
	}
}

func (w *watcher) untilBookmark() time.Duration {
	wait := bookmarkEvery
	if end, ok := w.ctx.Deadline(); ok && !w.last {
		if last := time.Until(end) - bookmarkBeforeEnd; last > 0 && last < wait {
			wait, w.last = last, true
		}
	}
	return wait
}

func (w *watcher) sendInitial() bool {
	if w.initial == nil {
		return true
	}
	v := w.initial
	w.initial = nil // the picture need not outlive its listing
	for o := range w.filter.Objects(v) {
		if !w.send(watch.Event{Type: watch.Added, Object: w.filter.Shown(w.hub.Present(v, o))}) {
			return false
		}
	}
	if !w.closing {
		return true
	}
	mark := bookmarkOf(w.window.kind, v.Revision())
	mark.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	return w.send(watch.Event{Type: watch.Bookmark, Object: mark})
}

func (w *watcher) send(e watch.Event) bool {
	if w.ctx.Err() != nil { // else the choice below were chance, and its client may have lost the right to see it
		return false
	}
	select {
	case w.out <- e:
		return true
	case <-w.ctx.Done():
		return false
	}
}

// translate says what an event is for this watcher: an object that begins to match is added, one that ceases to is
// deleted, whatever happened to it in the store.
func (w *watcher) translate(e *event) (watch.Event, bool) {
	was, is := w.filter.sees(e)
	switch {
	case is && was:
		return watch.Event{Type: watch.Modified, Object: w.shown(e.added)}, true
	case is:
		return watch.Event{Type: watch.Added, Object: w.shown(e.added)}, true
	case was:
		return watch.Event{Type: watch.Deleted, Object: w.shown(e.removed)}, true
	default:
		return watch.Event{}, false
	}
}

func (w *watcher) shown(e *encoded) *encoded {
	if w.filter.lean {
		return e.lean()
	}
	return e
}

// bookmarkOf is an empty object that says: you have seen everything up to rev.
func bookmarkOf(k *kinds.Kind, rev int64) kinds.Object {
	o := k.New()
	o.SetResourceVersion(strconv.FormatInt(rev, 10))
	return o
}

// failed is the event that tells a client why its watch ends.
func failed(err error) watch.Event {
	status, ok := err.(apierrors.APIStatus)
	if !ok {
		status = apierrors.NewInternalError(err)
	}
	s := status.Status()
	return watch.Event{Type: watch.Error, Object: &s}
}

// failedWatch is a watch that only tells why there is none, as Kubernetes answers one that resumes too far back.
type failedWatch chan watch.Event

func newFailedWatch(err error) failedWatch {
	c := make(failedWatch, 1)
	c <- failed(err)
	close(c)
	return c
}

// ResultChan implements watch.Interface.
func (f failedWatch) ResultChan() <-chan watch.Event { return f }

// Stop implements watch.Interface.
func (f failedWatch) Stop() {}

// From says where a watch begins.
type From struct {
	// Revision that the client has seen. 0: none, and what is there is sent first.
	Revision int64
	// Least is the revision that the view must have reached before.
	Least int64
	// Initial asks for what is there, at Revision or later, before what comes.
	Initial bool
	// Bookmarks asks for them; after what was asked for by Initial comes one that is marked.
	Bookmarks bool
}

// Watch starts a watch, which ends with ctx. From revision 0: the objects of now, then everything after. From X:
// everything after X, or with Initial the objects at X or later first. One that cannot resume there only tells so.
func (h *Hub) Watch(ctx context.Context, f Filter, from From) (watch.Interface, error) {
	switch _, err := h.Reach(ctx, from.Least); {
	case apierrors.IsResourceExpired(err):
		h.metrics.expired.Inc()
		return newFailedWatch(err), nil
	case err != nil:
		return nil, err
	}
	v, window := h.at(f.kind.GroupResource())
	w := &watcher{hub: h, window: window, filter: f, bookmarks: from.Bookmarks}
	rev, list := from.Revision, from.Initial || from.Revision == 0
	if list {
		rev = v.Revision()
		w.initial, w.closing = v, from.Initial && from.Bookmarks
	}
	var err error
	if w.place, err = window.seek(rev, list, &f); err != nil {
		h.metrics.expired.Inc()
		return newFailedWatch(err), nil
	}
	w.start(ctx)
	return w, nil
}

// Revision reads a resourceVersion; empty is 0.
func Revision(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n > math.MaxInt64 {
		return 0, apierrors.NewBadRequest("invalid resource version " + strconv.Quote(s))
	}
	return int64(n), nil
}
