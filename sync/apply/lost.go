package apply

import (
	"fmt"
	"time"

	"lockstep/kinds"
	"lockstep/store"
	"lockstep/store/view"
	"lockstep/sync/plan"
)

// lostTable has a row for every accepted revision that lost objects, for as long as plan.Window counts it; its name is
// "<source>/<time>/<part>". So the budget survives the daemon.
const lostTable view.Table[loss] = "lost"

// loss is what a revision lost without anybody's consent.
type loss struct {
	At   time.Time   `json:"at"`
	Keys []kinds.Key `json:"keys"`
}

// Lost returns the objects that a source lost within plan.Window before now, without those that it was allowed to lose.
// Some may be there again, or named twice.
func Lost(v *view.View, source string, now time.Time) ([]kinds.Key, error) {
	var keys []kinds.Key
	for row, err := range lostTable.Rows(v, source+"/") {
		if err != nil {
			return nil, err
		}
		if row.Value.counts(now) {
			keys = append(keys, row.Value.Keys...)
		}
	}
	return keys, nil
}

func (l loss) counts(now time.Time) bool { return now.Before(l.At.Add(plan.Window)) }

// lossKeys bounds a record to some 130 KB with the longest names, well below groupBytes.
const lossKeys = 250

// lose are the writes that note what a plan loses, and forget what no longer counts: all of it, where the loss is
// allowed. They are to be written before the plan is accepted: what was noted and is not lost does not count.
func (a *Applier) lose(p *plan.Plan, now time.Time) ([]store.Write, error) {
	var writes []store.Write
	for row, err := range lostTable.Rows(a.opts.Store.View(), p.Source+"/") {
		if err != nil {
			return nil, err
		}
		if p.Revision.AllowPrune || !row.Value.counts(now) {
			writes = append(writes, drop(lostTable, row.Name))
		}
	}
	if p.Revision.AllowPrune {
		return writes, nil
	}
	l := loss{At: now.UTC()}
	part := 0
	flush := func() {
		if len(l.Keys) > 0 {
			name := fmt.Sprintf("%s/%s/%d", p.Source, l.At.Format(time.RFC3339Nano), part)
			writes = append(writes, put(lostTable, name, l))
			part, l.Keys = part+1, nil
		}
	}
	for _, e := range p.Entries {
		if e.State != plan.Pruning {
			continue
		}
		if l.Keys = append(l.Keys, e.Key); len(l.Keys) == lossKeys {
			flush()
		}
	}
	flush()
	return writes, nil
}
