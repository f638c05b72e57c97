package sync

import (
	"context"
	"fmt"
	"time"

	"lockstep/sync/plan"
	"lockstep/sync/source"
	"lockstep/sync/verdict"
)

const (
	// quietEach is how much longer than source.Settle a folder has to rest for each object that it has lost, up to
	// quietMost: a file that is saved again is back in a moment, a tree of thousands is copied for minutes, and a copy
	// over a network may pause for seconds.
	quietEach = 50 * time.Millisecond
	quietMost = time.Minute
	// confirmFor bounds the look that confirms a loss: a scan of 20,000 files takes a second or two.
	confirmFor = 10 * time.Second
)

// doubt is about a folder that has lost objects: what is seen may be the half of what is being copied. The loss is
// believed once the folder has the same content at the end of a quiet time as at its beginning. The zero value doubts
// nothing.
type doubt struct {
	lost  int
	since time.Time
	over  bool // the folder was seen to rest
}

// quiet is how long a folder has to rest before it is believed that it has lost so many objects.
func quiet(lost int) time.Duration {
	return min(quietMost, source.Settle+time.Duration(lost)*quietEach)
}

func (d doubt) pending() bool { return d.lost > 0 && !d.over }

func (d doubt) due() time.Time { return d.since.Add(quiet(d.lost)) }

func (d doubt) String() string {
	return fmt.Sprintf("the folder has lost %s; believed once it has rested for %s", verdict.Count(d.lost),
		quiet(d.lost).Round(time.Second/10))
}

// hesitate says, once a revision, that a folder that has lost objects is to be looked at again.
func (d *driver) hesitate(p *plan.Plan) bool {
	lost := p.Loses()
	if d.source.Spec.Folder == "" || lost == 0 || d.doubt.over {
		return false
	}
	d.doubt = doubt{lost: lost, since: d.sync.opts.Now()}
	d.log.Info("the folder has lost objects, which is believed once it rests", "revision", d.seen.ID, "objects", lost, "quiet", quiet(lost))
	return true
}

// settled says whether nothing stands against deciding on the revision that was seen; next is told when to come back.
func (d *driver) settled(ctx context.Context, next *later) bool {
	now := d.sync.opts.Now()
	if now.Before(d.believe) {
		next.at(d.believe)
		return false
	}
	if !d.doubt.pending() {
		return true
	}
	if due := d.doubt.due(); now.Before(due) {
		next.at(due)
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, confirmFor)
	defer cancel()
	if rev, err := d.watcher.Look(ctx, d.source.Name); err != nil || rev.ID != d.seen.ID {
		// The watcher yields what is there now; should it be as before once more, the quiet time has begun anew.
		d.watcher.Poke()
		d.doubt.since = d.sync.opts.Now()
		next.at(d.doubt.due())
		return false
	}
	d.doubt.over = true
	return true
}
