package sync

import (
	"sync"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
	"lockstep/kinds/drift"
	"lockstep/store/view"
	"lockstep/sync/health"
	"lockstep/sync/source"
)

// inbox gathers what a driver has to look at. Everything in it is the newest of its kind, so that it is bounded by the
// number of the source's objects however slow the driver is.
type inbox struct {
	wake  chan struct{}
	reads health.Reads

	mu    sync.Mutex
	owned map[kinds.Key]bool // the objects of the source
	news  letter
}

// letter is what a driver takes from its inbox.
type letter struct {
	update *source.Update
	// replaced are revisions that nobody took before a newer one came.
	replaced []string
	keys     map[kinds.Key]bool // objects of the source that changed
	all      bool               // any object may have changed
	health   bool               // something changed that health may depend on
	found    []drift.Finding    // that nodes have told of objects of the source, at most maxFound
}

// maxFound bounds the findings that a driver has not taken: what is more is on the page, and not in the commit status.
const maxFound = 4096

func newInbox() *inbox { return &inbox{wake: make(chan struct{}, 1), reads: health.AllReads()} }

func (b *inbox) update(u source.Update) {
	b.mu.Lock()
	if old := b.news.update; old != nil && old.Revision != nil && len(b.news.replaced) < maxPassed {
		b.news.replaced = append(b.news.replaced, old.Revision.ID)
	}
	b.news.update = &u
	b.mu.Unlock()
	b.ring()
}

func (b *inbox) everything() {
	b.mu.Lock()
	b.news.all, b.news.health = true, true
	b.mu.Unlock()
	b.ring()
}

func (b *inbox) changes(changes []view.Change) {
	b.mu.Lock()
	before := b.news.health
	for _, c := range changes {
		if c.OldRecord != nil || c.NewRecord != nil {
			continue
		}
		if b.owned[c.Key] {
			if b.news.keys == nil {
				b.news.keys = map[kinds.Key]bool{}
			}
			b.news.keys[c.Key], b.news.health = true, true
		}
		// What waits for its namespace is looked at again with the health of all.
		kind := kinds.ForResource(c.Key.GroupResource())
		if !b.news.health && (kind == kinds.For[*corev1.Namespace]() || b.reads.Concern(kind, c.Old, c.New)) {
			b.news.health = true
		}
	}
	ring := b.news.health && !before || len(b.news.keys) > 0
	b.mu.Unlock()
	if ring {
		b.ring()
	}
}

// tell hands over what nodes have found.
func (b *inbox) tell(found []drift.Finding) {
	b.mu.Lock()
	b.news.found = append(b.news.found, found[:min(len(found), maxFound-len(b.news.found))]...)
	b.mu.Unlock()
	b.ring()
}

// own tells the inbox which objects belong to the source.
func (b *inbox) own(keys map[kinds.Key]bool) {
	b.mu.Lock()
	b.owned = keys
	b.mu.Unlock()
}

func (b *inbox) take() letter {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.news
	b.news = letter{}
	return l
}

func (b *inbox) ring() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// pushed says that a new revision waits.
func (b *inbox) pushed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.news.update != nil
}
