package rebuild

import (
	"context"
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"lockstep/kinds"
	"lockstep/store"
	"lockstep/store/view"
)

// errHeld is a write that is not done yet. It counts as an outage: whoever made it tries again.
var errHeld = fmt.Errorf("%w: the cluster is being rebuilt", store.ErrUnavailable)

// use is by whom a committer is used.
type use int

const (
	// Sources makes objects with the uids that they had.
	Sources use = iota
	// Loops does so too, and holds what ends pods and volumes, and what makes volumes while nodes are missing.
	Loops
	// Places holds pods that have one place, while nodes are missing.
	Places
)

// committer is a leader's, that has the objects which are made be those that were, and holds what cannot be known to be right yet.
type committer struct {
	keeper *Keeper
	next   store.Committer
	use    use
}

// Committer is c for one use, until the rebuild is over and from then on c's.
func (k *Keeper) Committer(c store.Committer, u use) store.Committer { return &committer{k, c, u} }

// Commit implements store.Committer.
func (c *committer) Commit(ctx context.Context, groups ...store.Group) []store.Result {
	if c.keeper.over.Load() {
		return c.next.Commit(ctx, groups...)
	}
	v := c.keeper.opts.Store.View()
	is := stateOf(v, c.keeper.opts.Cluster.ID)
	absent := len(c.keeper.missing(v)) > 0
	uids := c.keeper.owners(v)
	results := make([]store.Result, len(groups))
	var through []store.Group
	var at []int
	for i, g := range groups {
		g, err := c.shape(v, uids, is.Phase, absent, g)
		if err != nil {
			results[i].Err = err
			continue
		}
		through, at = append(through, g), append(at, i)
	}
	c.keeper.noteWrite()
	for i, r := range c.next.Commit(ctx, through...) {
		results[at[i]] = r
	}
	return results
}

func (c *committer) shape(v *view.View, uids map[name]types.UID, p phase, absent bool, g store.Group) (store.Group, error) {
	out := append(store.Group{}, g...)
	for i := range out {
		w := &out[i]
		switch {
		case c.use == Loops && p != waiting && keeps(v, *w):
			return nil, fmt.Errorf("%w: whether it is wanted is not known yet", errHeld)
		case c.use != Sources && absent && once(v, *w):
			return nil, fmt.Errorf("%w: a node that has not said what it runs may have it", errHeld)
		case w.Object != nil && w.If == 0:
			w.Object = born(v, uids, w.Object, func(k kinds.Key) bool { return c.keeper.opts.Sized(v, k) })
		}
	}
	return out, nil
}

// ownersCache is what owners said of a view with the same pods and claims.
type ownersCache struct {
	mu    sync.Mutex
	lists int
	uids  map[name]types.UID
}

// owners are those of a view. They only grow fewer, but by what nodes bring, of which there is a row each time.
func (k *Keeper) owners(v *view.View) map[name]types.UID {
	n := 0
	for range lists.Names(v, listPrefix(k.opts.Cluster.ID)) {
		n++
	}
	c := &k.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.uids == nil || c.lists != n {
		c.lists, c.uids = n, owners(v)
	}
	return c.uids
}
