package sync

import (
	"slices"

	"lockstep/kinds/v1alpha1"
	"lockstep/store/view"
	"lockstep/sync/source"
)

// maxPassed is how many of the commits that were passed over are told so, the newest ones: a quarter of what the outbox
// keeps of a source, so that they never push a verdict out, and one request each to the forge. Of a branch that moves by
// more at once, history is brought in, which nobody waits for.
const maxPassed = 32

// passed notes the commits that never are decided on because rev came first.
func (d *driver) passed(rev *source.Revision, replaced []string) {
	if rev.Passed == nil {
		return
	}
	if d.told == "" {
		if live, ok := view.Get[*v1alpha1.Source](d.sync.opts.Store.View(), "", d.source.Name); ok {
			d.told = live.Status.Seen
		}
	}
	over := append(d.over, replaced...)
	if d.seen != nil && !d.decided {
		over = append(over, d.seen.ID)
	}
	if d.told != "" && d.told != rev.ID {
		over = append(over, rev.Passed(d.told, maxPassed)...)
	}
	slices.Sort(over)
	over = slices.DeleteFunc(slices.Compact(over), func(id string) bool { return id == rev.ID })
	d.over = over[:min(len(over), 2*maxPassed)]
}
