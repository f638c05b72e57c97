package watch

import (
	"slices"
	"time"

	"lockstep/store/view"
)

const (
	// keptViews bounds the views that are kept for lists read in parts. One that begins lists is shared by all that begin before
	// anything changes.
	keptViews = 64
	// keptBytes bounds what they keep alive together, the states of objects that are no more: as much as a window may.
	keptBytes = windowBytes
	// keptFor is as long as etcd keeps old revisions for Kubernetes by default.
	keptFor = 5 * time.Minute
)

// kept are the views that lists continue from, the oldest first. The zero value has none.
type kept struct {
	views []keptView
	// passed counts the bytes of the states that others have replaced while there were views: what was passed since the oldest
	// was kept is at least what all keep alive.
	passed int
}

type keptView struct {
	view   *view.View
	since  time.Time
	passed int // of kept, when it was kept
}

// keep adds a view. A list that goes on does not prolong its own view, unless it is still the newest: else whoever asks for one
// part again and again would keep it for ever.
func (k *kept) keep(v *view.View, newest bool, now time.Time) {
	same := func(of keptView) bool { return of.view.Revision() == v.Revision() }
	if !newest && slices.ContainsFunc(k.views, same) {
		return
	}
	k.views = append(slices.DeleteFunc(k.views, same), keptView{view: v, since: now, passed: k.passed})
	k.drop(now)
}

// at returns the view of a revision, or nil.
func (k *kept) at(rev int64, now time.Time) *view.View {
	k.drop(now)
	for _, of := range k.views {
		if of.view.Revision() == rev {
			return of.view
		}
	}
	return nil
}

// pass counts what changes replace, and lets go of views that are too old, or keep too much alive.
func (k *kept) pass(changes []view.Change, now time.Time) {
	if len(k.views) == 0 {
		return
	}
	for _, c := range changes {
		if k.passed += overhead; c.Old != nil {
			k.passed += sizeOf(c.Old)
		}
	}
	k.drop(now)
}

func (k *kept) drop(now time.Time) {
	gone := max(0, len(k.views)-keptViews)
	for gone < len(k.views) && (now.Sub(k.views[gone].since) >= keptFor || k.passed-k.views[gone].passed > keptBytes) {
		gone++
	}
	k.views = slices.Delete(k.views, 0, gone)
}
