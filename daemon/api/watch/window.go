package watch

import (
	"cmp"
	"fmt"
	"slices"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"lockstep/daemon/provenance"
	"lockstep/kinds"
	"lockstep/store/view"
)

const (
	// windowEvents bounds how far back a watch may resume: what 100,000 pods' agents write in some minutes.
	windowEvents = 8192
	// windowBytes bounds what the window keeps from the garbage collector, the states that are no more, where these are
	// large: 8,192 pods of 8 KiB fit.
	windowBytes = 64 << 20
	// windowSlack is how many more events may come before the oldest are dropped together.
	windowSlack = windowEvents / 8
	// windowEncoded is how many of the newest events keep their encoded bytes, encodedBytes how much these may be, before
	// they are encoded: watchers that follow closely, which is nearly all of them, share them, and the rest of the window
	// costs no second copy.
	windowEncoded = 256
	encodedBytes  = 8 << 20
	// wakeEvery is after how many events even a watcher that none of them concerns is woken, so that its place does not
	// fall out of the window.
	wakeEvery = windowEvents / 4
	// overhead is what an object takes in memory beside its text, as much as a small one takes at all.
	overhead = 1 << 10
)

// event is one change of one object, at a place in a window.
type event struct {
	rev      int64        // of the transaction that made it, which may have made others
	old, new kinds.Object // nil for created and deleted
	// added is what a watcher is sent that sees the object; removed what one is sent that no longer does.
	added, removed *encoded
	holds          int // bytes of the old state, which only the window keeps
	sends          int // bytes of both states
}

// sizeOf is about what an object takes in memory.
func sizeOf(o kinds.Object) int {
	if sized, ok := o.(interface{ Size() int }); ok {
		return overhead + sized.Size()
	}
	return 4 * overhead // of our own kinds, which are small
}

// concerns says whether an event is of a pod that is or was bound to that node.
func (e *event) concerns(node string) bool {
	return kinds.NodeOf(e.old) == node || kinds.NodeOf(e.new) == node
}

// traced is a change with where its two states come from.
type traced struct {
	view.Change
	was, is *provenance.Origin
}

// window is the newest events of one kind in the order they happened. Watchers hold a place in it and read on from
// there, so there is no queue a watcher: one that is too slow finds that its place is gone.
type window struct {
	kind *kinds.Kind
	hub  *Hub

	mu     sync.Mutex
	events []*event
	base   int   // number of events that were dropped before events[0]
	held   int   // bytes that the events hold
	fresh  int   // place of the oldest event that keeps its encoded bytes
	sent   int   // bytes of the states of the events from there on
	lost   int64 // the oldest revision that a watch can resume from
	rev    int64 // every change up to it is in
	gone   bool  // another window has taken its place
	woken  int   // base+len(events) when all watchers were woken last

	sleepers map[*watcher]struct{}
	byNode   map[string]map[*watcher]struct{}
}

func newWindow(k *kinds.Kind, h *Hub, rev int64) *window {
	return &window{
		kind: k, hub: h, lost: rev, rev: rev,
		sleepers: map[*watcher]struct{}{}, byNode: map[string]map[*watcher]struct{}{},
	}
}

// append adds all changes of this kind up to revision rev, in order, and moves the window there.
func (w *window) append(rev int64, changes []traced) {
	w.mu.Lock()
	defer w.mu.Unlock()
	nodes := map[string]struct{}{}
	for _, c := range changes {
		at := stepOf(c.Change, rev)
		e := &event{rev: at, old: c.Old, new: c.New}
		if c.New != nil {
			e.added = &encoded{object: c.New, origin: c.is}
			e.sends += sizeOf(c.New)
			nodes[kinds.NodeOf(c.New)] = struct{}{}
		}
		if c.Old != nil {
			e.removed = &encoded{object: c.Old, origin: c.was, rev: at}
			e.holds = sizeOf(c.Old)
			e.sends += e.holds
			nodes[kinds.NodeOf(c.Old)] = struct{}{}
		}
		w.events = append(w.events, e)
		w.held += e.holds
		w.sent += e.sends
	}
	w.retire()
	w.rev = rev
	w.trim()
	w.wake(nodes, len(changes) > 0)
}

// stepOf is the revision of a change, or that of its batch where it has none.
func stepOf(c view.Change, batch int64) int64 {
	if c.Revision != 0 {
		return c.Revision
	}
	return batch
}

// retire lets the events that are not among the newest any more encode anew for each watcher.
func (w *window) retire() {
	for next := w.base + len(w.events); w.fresh < next && (next-w.fresh > windowEncoded || w.sent > encodedBytes); w.fresh++ {
		e := w.events[w.fresh-w.base]
		w.sent -= e.sends
		e.retire()
	}
}

// trim drops the oldest events once there are more than the window holds, or they hold more: readers keep the old array.
func (w *window) trim() {
	if len(w.events) < windowEvents+windowSlack && w.held <= windowBytes {
		return
	}
	// Of bytes a part more is dropped, so that not every event that follows drops one.
	drop, held := max(0, len(w.events)-windowEvents), w.held
	for i, e := range w.events {
		if i >= drop && (w.held <= windowBytes || held <= windowBytes-windowBytes/8) {
			break
		}
		held -= e.holds
		drop = max(drop, i+1)
	}
	rev := w.events[drop-1].rev
	w.lost = rev
	if drop > 1 && w.events[drop-2].rev == rev || drop < len(w.events) && w.events[drop].rev == rev {
		w.lost++ // part of it is gone, and who has seen the revision may not have seen that part
	}
	for i, e := range w.events[:drop] {
		if e.old != nil {
			w.hub.ledger.forget(e.old)
		}
		if w.base+i >= w.fresh {
			w.sent -= e.sends
		}
	}
	w.base, w.held = w.base+drop, held
	w.fresh = max(w.fresh, w.base)
	w.events = slices.Clone(w.events[drop:])
}

func (w *window) wake(nodes map[string]struct{}, changed bool) {
	if !changed {
		return
	}
	for s := range w.sleepers {
		s.poke()
	}
	if total := w.base + len(w.events); total-w.woken >= wakeEvery {
		w.woken = total
		for _, set := range w.byNode {
			for s := range set {
				s.poke()
			}
		}
		return
	}
	for node := range nodes {
		for s := range w.byNode[node] {
			s.poke()
		}
	}
}

// seek returns the place from which a watcher that has seen revision rev reads on. A revision's events may be one
// transaction's, and the watcher may have been cut among them, so all of them are read again, unless at most one of them is
// for this watcher, or it has the complete picture of rev. It fails with 410 Expired where events since are no longer known.
func (w *window) seek(rev int64, complete bool, f *Filter) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone || rev < w.lost && !(complete && rev == w.lost-1) {
		return 0, tooOld(rev, w.lost)
	}
	first, after := w.find(rev), w.find(rev+1)
	if complete || f.countOf(w.events[first:after]) < 2 {
		return w.base + after, nil
	}
	return w.base + first, nil
}

// exact says whether a watch from revision rev begins with what came after it, neither refused nor with events of rev.
func (w *window) exact(rev int64, f *Filter) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return rev >= w.lost && f.countOf(w.events[w.find(rev):w.find(rev+1)]) < 2
}

// find returns where the first event of revision rev is, or would be.
func (w *window) find(rev int64) int {
	n, _ := slices.BinarySearchFunc(w.events, rev, func(e *event, rev int64) int { return cmp.Compare(e.rev, rev) })
	return n
}

// since returns the events from a place on, the place after them, and the revision they complete. It fails with 410
// Expired where the reader was too slow.
func (w *window) since(place int) ([]*event, int, int64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if place < w.base {
		return nil, 0, 0, tooOld(w.rev, w.lost)
	}
	return w.events[place-w.base:], w.base + len(w.events), w.rev, nil
}

// expire ends the window: whoever reads on from it is told to list again.
func (w *window) expire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.base += len(w.events) + 1
	w.events, w.lost, w.gone, w.held = nil, w.rev+1, true, 0
	for s := range w.sleepers {
		s.poke()
	}
	for _, set := range w.byNode {
		for s := range set {
			s.poke()
		}
	}
}

// close ends every watch of the window without a word: its client resumes elsewhere.
func (w *window) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for s := range w.sleepers {
		s.cancel()
	}
	for _, set := range w.byNode {
		for s := range set {
			s.cancel()
		}
	}
}

// enter lets a watcher be woken: by events that concern its node, or by all where it names none.
func (w *window) enter(s *watcher) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s.filter.node == "" {
		w.sleepers[s] = struct{}{}
		return
	}
	set := w.byNode[s.filter.node]
	if set == nil {
		set = map[*watcher]struct{}{}
		w.byNode[s.filter.node] = set
	}
	set[s] = struct{}{}
}

func (w *window) leave(s *watcher) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.sleepers, s)
	if set := w.byNode[s.filter.node]; set != nil {
		delete(set, s)
		if len(set) == 0 {
			delete(w.byNode, s.filter.node)
		}
	}
}

func (e *event) retire() {
	for _, o := range []*encoded{e.added, e.removed} {
		if o != nil {
			o.retire()
		}
	}
}

func fromTheFuture(rev, newest int64) error {
	return apierrors.NewResourceExpired(fmt.Sprintf("unknown resource version: %d, the newest is %d: the store was lost or restored since",
		rev, newest))
}

func tooOld(rev, oldest int64) error {
	return apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", rev, oldest))
}
