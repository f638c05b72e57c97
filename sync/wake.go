package sync

import (
	"context"
	"time"

	"lockstep/store"
	"lockstep/store/view"
	"lockstep/sync/source"
)

// wakes is the table of when a webhook for a source came to a server that does not lead, by the source's name.
const wakes view.Table[woken] = "hook"

type woken struct {
	At time.Time `json:"at"`
}

// wakeTimeout bounds the telling: who sent the webhook waits.
const wakeTimeout = 5 * time.Second

// wake tells who leads, where it is another process, that the sources of the watchers are to be looked at.
func (s *Sync) wake(ctx context.Context, watchers []source.Watcher) error {
	if s.opts.Wake == nil || s.places.leads() {
		return nil
	}
	var groups []store.Group
	for _, w := range watchers {
		for _, src := range w.Sources() {
			is := wakes.Record(src.Name, woken{At: s.opts.Now().UTC()})
			groups = append(groups, store.Group{{Record: is, If: store.Anyway, Reason: "a webhook came"}})
		}
	}
	ctx, cancel := context.WithTimeout(ctx, wakeTimeout)
	defer cancel()
	for _, r := range s.opts.Wake.Commit(ctx, groups...) {
		if r.Err != nil {
			return r.Err
		}
	}
	return nil
}

// wokenBy pokes the watchers of the sources that a batch of changes tells a webhook of.
func (f *fleet) wokenBy(changes []view.Change) {
	for _, c := range changes {
		if c.NewRecord == nil || c.NewRecord.Table != string(wakes) {
			continue
		}
		for _, w := range f.sync.watchers() {
			for _, src := range w.Sources() {
				if src.Name == c.NewRecord.Name {
					w.Poke()
				}
			}
		}
	}
}
