package engine

import (
	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/store"
	"lockstep/store/view"
)

// wake queues every key that the batch's changes concern. A wake-up carries no data: the key is decided from whatever
// view is the newest by then.
func (e *Engine) wake(batch store.Batch) {
	e.lift(batch)
	views := e.views(batch.View)
	for _, c := range batch.Changes {
		if c.Old == nil && c.New == nil {
			continue // a record
		}
		kind := kinds.ForResource(c.Key.GroupResource())
		for n, r := range e.loops {
			if r.Owner == kind {
				e.add(n, c.Key)
			}
			for _, read := range r.Reads {
				if read.Kind != kind || read.Keys == nil ||
					(c.Old != nil && c.New != nil && read.Changed != nil && !read.Changed(c.Old, c.New)) {
					continue
				}
				for _, o := range []kinds.Object{c.Old, c.New} {
					if o != nil {
						e.addAll(n, read.Keys(views[n], o))
					}
				}
			}
		}
	}
}

// lift queues the keys whose refusal a batch's changes may have lifted.
func (e *Engine) lift(batch store.Batch) {
	if len(e.refusals) == 0 {
		return
	}
	for _, c := range batch.Changes {
		if namespace := lifts(c.Old, c.New); namespace != "" {
			for it := range e.refusals[namespace] {
				e.add(it.loop, it.key)
			}
		}
	}
}

// resync queues every key there is: at the start, and after changes were lost.
func (e *Engine) resync() {
	v := e.Store.View()
	views := e.views(v)
	for n, r := range e.loops {
		if r.Single {
			e.add(n, loop.ClusterKey())
			continue
		}
		if r.Owner != nil {
			for o := range v.List(r.Owner.GroupResource(), "") {
				e.add(n, kinds.KeyOf(o))
			}
		}
		for _, read := range r.Reads {
			if read.Keys == nil {
				continue
			}
			for o := range v.List(read.Kind.GroupResource(), "") {
				e.addAll(n, read.Keys(views[n], o))
			}
		}
	}
}

// views are what each loop sees of a view.
func (e *Engine) views(v *view.View) []*view.View {
	views := make([]*view.View, len(e.loops))
	for n := range views {
		views[n] = v.Only(e.sees[n])
	}
	return views
}

func (e *Engine) addAll(n int, keys []kinds.Key) {
	for _, k := range keys {
		e.add(n, k)
	}
}

func (e *Engine) add(n int, k kinds.Key) { e.queue.add(item{n, k}, e.Clock.Now()) }
