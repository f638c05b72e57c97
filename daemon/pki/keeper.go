package pki

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
	"lockstep/store"
	"lockstep/store/view"
)

const (
	// settleTimeout bounds the wait for a write of somebody else to show.
	settleTimeout = 5 * time.Second
	// restoreAgain is the pause after the store did not take what the ledger knows, or the disk what the store knows.
	restoreAgain = time.Second
	// keepTimeout bounds one look of the keeper at store and disk.
	keepTimeout = 30 * time.Second
)

// Run brings into the store what the ledger knows and the store has forgotten, then keeps the ledger in step, and takes
// the name from each node whose Node object is deleted, until ctx ends; then it returns nil. Ready is closed when the
// store's first view is complete.
func (r *Registrar) Run(ctx context.Context, ready <-chan struct{}) error {
	select {
	case <-ready:
	case <-ctx.Done():
		return nil
	}
	for ctx.Err() == nil {
		sub := r.tokens.Store.Subscribe("pki")
		r.keep(ctx, sub)
		sub.Close()
	}
	return nil
}

// keep works until ctx ends or the subscription does.
func (r *Registrar) keep(ctx context.Context, sub *store.Subscription) {
	failing := false
	again := time.NewTimer(0)
	defer again.Stop()
	gone := map[string]string{} // keys by node, where the Node object was deleted
	for {
		select {
		case <-ctx.Done():
			return
		case batch, ok := <-sub.C:
			if !ok {
				return
			}
			if !concerns(batch, gone) {
				continue
			}
		case <-again.C:
		}
		err := r.look(ctx, gone)
		if err != nil && ctx.Err() == nil && !failing {
			r.opts.Log.Error("cannot keep the names of nodes", "error", err)
		}
		if failing = err != nil; failing {
			again.Reset(restoreAgain)
		} else {
			again.Reset(confirmEvery)
		}
	}
}

// concerns says whether a batch changes what the ledger has, and notes the nodes that were deleted, with the keys that
// their names were registered for. One whose registration changes with it was removed, and may have come back.
func concerns(b store.Batch, gone map[string]string) bool {
	changed := map[string]bool{}
	for _, c := range b.Changes {
		for _, rec := range []*view.Record{c.OldRecord, c.NewRecord} {
			if rec != nil && rec.Table == pkiTable {
				changed[rec.Name] = true
			}
		}
	}
	found := len(changed) > 0
	for _, c := range b.Changes {
		n, ok := c.Old.(*corev1.Node)
		if !ok || n == nil || c.New != nil || changed[nodePrefix+n.Name] {
			continue
		}
		if reg, _, err := registered(b.View, n.Name); err == nil {
			gone[n.Name], found = reg.Key, true
		}
	}
	return found
}

func (r *Registrar) look(ctx context.Context, gone map[string]string) error {
	ctx, cancel := context.WithTimeout(ctx, keepTimeout)
	defer cancel()
	if l := r.opts.Ledger; l != nil {
		if err := r.restore(ctx); err != nil {
			return err
		}
		if err := l.follow(func() known { return knownIn(r.tokens.Store.View()) }, r.tokens.now()); err != nil {
			return err
		}
	}
	for node, key := range gone {
		switch reg, _, err := registered(r.tokens.Store.View(), node); {
		case errors.Is(err, errNobody) || err == nil && reg.Key != key: // another server was quicker
		case err != nil:
			return err
		default:
			if err := r.Remove(ctx, node); err != nil {
				return err
			}
			r.opts.Log.Warn("a node's object was deleted: its certificate holds no more", "node", node)
		}
		delete(gone, node)
	}
	return nil
}

// Restored is closed when the store has all nodes that the ledger knows.
func (r *Registrar) Restored() <-chan struct{} { return r.restored }

// restore is done once: after that the store has all that the ledger knows, and is followed.
func (r *Registrar) restore(ctx context.Context) error {
	select {
	case <-r.restored:
		return nil
	default:
	}
	ledger, inStep, begun := r.opts.Ledger.read()
	if until := r.reckon(inStep, begun); until.After(ledger.Unproven) {
		ledger.Unproven = until
	}
	v := r.tokens.Store.View()
	groups := forgotten(ledger, v, r.tokens.now().Add(-r.authority.nodeLifetime))
	var rev int64
	for _, result := range r.tokens.Commit.Commit(ctx, groups...) {
		if result.Err != nil {
			return fmt.Errorf("cannot bring the names of nodes back into the store: %w", result.Err)
		}
		rev = max(rev, result.Revision)
	}
	if _, err := r.tokens.Store.Wait(ctx, rev); err != nil {
		return fmt.Errorf("cannot read the names of nodes back: %w", err)
	}
	if len(groups) > 0 {
		r.opts.Log.Warn("the store had forgotten nodes whose certificates live", "records", len(groups))
	}
	close(r.restored)
	return nil
}

// reckon says until when there may be certificates for names that the ledger does not know: where the store is younger
// than the authority, and no ledger was in step with the one before until shortly before it was lost.
func (r *Registrar) reckon(inStep time.Time, begun bool) time.Time {
	made := r.opts.StoreMade
	if made.IsZero() || made.Before(r.authority.current().is.cert.NotBefore.Add(skew+newStore)) {
		return time.Time{}
	}
	if begun && inStep.After(made.Add(-ledgerTrust)) {
		return time.Time{}
	}
	return made.Add(r.authority.nodeLifetime)
}

// forgotten are the writes that bring into a store what a ledger knows beyond it. Where they disagree on a name, the
// store is right, since its node has been removed there and given to another; where a key was removed, it stays removed.
// Removals before the oldest living certificate are of no use any more.
func forgotten(ledger known, v *view.View, oldest time.Time) []store.Group {
	var groups []store.Group
	have := knownIn(v)
	add := func(r *view.Record, more ...store.Write) {
		write := store.Write{Record: r, Reason: "known from the ledger beside the authority"}
		groups = append(groups, append(store.Group{write}, more...))
	}
	for _, e := range differences(nothingKnown(), ledger) {
		_, named := have.Nodes[e.Node]
		_, gone := have.Removed[e.Key]
		switch {
		case e.Is != nil && !named && have.Removed[e.Is.Key] == (removed{}) && ledger.Removed[e.Is.Key] == (removed{}):
			add(registrations.Record(nodePrefix+e.Node, *e.Is))
		case e.Removed != nil && !gone && e.Removed.Since.After(oldest):
			var free store.Group
			if reg, rev, held := registered(v, e.Removed.Node); held == nil && reg.Key == e.Key {
				name := registrations.Gone(nodePrefix + e.Removed.Node)
				free = store.Group{{Record: name, If: rev, Reason: "its key was removed"}}
			}
			add(removals.Record(removedPrefix+e.Key, *e.Removed), free...)
		case e.Unproven.After(have.Unproven):
			add(doubts.Record(unprovenName, unproven{Until: e.Unproven}))
			groups[len(groups)-1][0].If = store.Anyway
		}
	}
	return groups
}

// knownIn is what the store knows. A record that cannot be read is left out: its name stays taken all the same.
func knownIn(v *view.View) known {
	k := nothingKnown()
	for row, err := range registrations.Rows(v, nodePrefix) {
		if err == nil {
			k.Nodes[strings.TrimPrefix(row.Name, nodePrefix)] = row.Value
		}
	}
	for row, err := range removals.Rows(v, removedPrefix) {
		if err == nil {
			k.Removed[strings.TrimPrefix(row.Name, removedPrefix)] = row.Value
		}
	}
	k.Unproven = unprovenUntil(v)
	return k
}

// Remove takes a node out of the cluster: from then on no certificate for its key holds, on any server whose view has it,
// and the name is free for another key. Its Node object is deleted; its pods follow. It is an error that there is none.
func (r *Registrar) Remove(ctx context.Context, node string) error {
	key, err := r.remove(ctx, node)
	if err == nil && r.opts.Ledger != nil {
		at := r.tokens.now().UTC().Truncate(time.Second)
		err = r.opts.Ledger.note(entry{Node: node, Key: key, Removed: &removed{Node: node, Since: at}})
	}
	if err != nil {
		return fmt.Errorf("cannot remove node %q: %w", node, err)
	}
	return nil
}

func (r *Registrar) remove(ctx context.Context, node string) (key string, err error) {
	select {
	case <-r.restored:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	v := r.tokens.Store.View()
	reg, rev, err := registered(v, node)
	if errors.Is(err, errNobody) {
		return "", errors.New("there is no node of this name, or nothing has been heard of it since the cluster's store was made anew")
	}
	if err != nil {
		return "", err
	}
	if err := r.mark(ctx, v, node); err != nil {
		return "", err
	}
	is := removed{Node: node, Since: r.tokens.now().UTC().Truncate(time.Second)}
	group := store.Group{
		{Record: removals.Record(removedPrefix+reg.Key, is), If: store.Anyway, Reason: "node removed"},
		{Record: registrations.Gone(nodePrefix + node), If: rev, Reason: "node removed"},
	}
	if o := v.Get(kinds.For[*corev1.Node]().Key("", node)); o != nil {
		group = append(group, store.Write{Key: kinds.KeyOf(o), If: store.Anyway, Reason: "node removed"})
	}
	group = append(group, r.useless(v)...)
	result := r.tokens.Commit.Commit(ctx, group)[0]
	if errors.Is(result.Err, store.ErrConflict) {
		return "", errors.New("its registration has just changed, try again")
	}
	if result.Err != nil {
		return "", result.Err
	}
	_, err = r.tokens.Store.Wait(ctx, result.Revision)
	return reg.Key, err
}

// mark notes in each volume that is a directory of a node that it was made: a machine that comes under the node's name may not have it.
func (r *Registrar) mark(ctx context.Context, v *view.View, node string) error {
	var groups []store.Group
	for pv := range view.List[*corev1.PersistentVolume](v, "") {
		if kinds.LocalPathOf(pv) != node || pv.Annotations[kinds.LocalPathMade] != "" {
			continue
		}
		groups = append(groups, store.Group{
			{Key: kinds.KeyOf(pv), Object: kinds.LocalPathMark(pv), If: kinds.Revision(pv), Reason: "its node is removed"}})
	}
	if len(groups) == 0 {
		return nil
	}
	var errs []error
	for i, result := range r.tokens.Commit.Commit(ctx, groups...) {
		if errors.Is(result.Err, store.ErrConflict) {
			return fmt.Errorf("volume %s has just changed, try again", groups[i][0].Key.Name)
		}
		errs = append(errs, result.Err)
	}
	return errors.Join(errs...)
}

// LastRemoved is the node that was taken out last, and when; empty where none is known.
func LastRemoved(v *view.View) (node string, at time.Time) {
	for _, is := range knownIn(v).Removed {
		if is.Since.After(at) || is.Since.Equal(at) && is.Node > node {
			node, at = is.Node, is.Since
		}
	}
	return node, at
}

// useless are writes that forget removals older than any certificate, some at a time.
func (r *Registrar) useless(v *view.View) store.Group {
	var out store.Group
	for key, is := range knownIn(v).Removed {
		if len(out) < maxExpired && r.tokens.now().Sub(is.Since) > r.authority.nodeLifetime {
			out = append(out, store.Write{
				Record: removals.Gone(removedPrefix + key),
				If:     store.Anyway,
				Reason: "no certificate of it lives",
			})
		}
	}
	return out
}
