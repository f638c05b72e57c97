package rebuild

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/internal/recall"
	"lockstep/internal/sleep"
	"lockstep/kinds"
	"lockstep/store"
	"lockstep/store/view"
)

const (
	// look is how often it is looked whether a phase is over.
	look = 50 * time.Millisecond
	// clusterTime is what a node gets to tell what it knows of the cluster: some megabytes, over a slow line.
	clusterTime = 5 * time.Second
	// quiet is for how long nothing is written when everything is as it is going to be, though owners were not found: several
	// times the longest pause between a reconciler's attempts at first.
	quiet = 3 * time.Second
	// attempts bounds how often a write that conflicts is decided anew: the other writer is the node itself.
	attempts = 8
	// settleTime bounds the wait for what was written to show.
	settleTime = 10 * time.Second
)

// Options of a Keeper; all of them are required.
type Options struct {
	Store store.Backend
	// Cluster is the store's.
	Cluster store.Cluster
	// Nodes are those that are registered, and were before a moment.
	Nodes func(v *view.View, before time.Time) []string
	// Unsettled are the sources that have not been read and carried out since this process leads.
	Unsettled func(v *view.View) []string
	// Stated says that a source states an object.
	Stated func(v *view.View, key kinds.Key) bool
	// Sized says that a manifest says how many replicas an object has, or that none states the object.
	Sized func(v *view.View, key kinds.Key) bool
	// Own says that a service is the cluster's own, made without Git.
	Own func(service kinds.Key) bool
	// Valid is nil where Kubernetes would take the object; it may change it.
	Valid func(kinds.Object) error
	// Delete is the object as it is while it is being deleted, or gone where it vanishes at once.
	Delete func(o kinds.Object, now time.Time) (changed kinds.Object, gone bool)
	Now    func() time.Time
	Log    *slog.Logger
}

// Keeper leads a store that was made anew, or restored, back to what the nodes run.
type Keeper struct {
	opts  Options
	over  atomic.Bool
	wrote atomic.Int64 // when, in nanoseconds
	cache ownersCache
}

// New returns a keeper; it starts nothing.
func New(o Options) *Keeper {
	k := &Keeper{opts: o}
	k.over.Store(!o.Cluster.Rebuilding)
	return k
}

func (k *Keeper) noteWrite() { k.wrote.Store(k.opts.Now().UnixNano()) }

// state is that of a view, which may say that all is over.
func (k *Keeper) state(v *view.View) state {
	s := stateOf(v, k.opts.Cluster.ID)
	if s.Phase == done {
		k.over.Store(true)
	}
	return s
}

// missing are the nodes that have not said what they run, by name.
func (k *Keeper) missing(v *view.View) []string {
	return missing(k.opts.Nodes(v, k.opts.Cluster.Created), toldOf(v, k.opts.Cluster.ID))
}

// Says is what there is to be told of a rebuild; empty where there is none.
func (k *Keeper) Says(v *view.View) string {
	if k.over.Load() {
		return ""
	}
	s, absent := k.state(v), k.missing(v)
	switch s.Phase {
	case done:
		return ""
	case syncing:
		if open := k.opts.Unsettled(v); len(open) > 0 {
			return "the cluster is being rebuilt: waiting for source " + names(open)
		}
		return "the cluster is being rebuilt"
	case waiting:
		return fmt.Sprintf("the cluster was rebuilt without node %s: pods that must not run twice, and new volumes, wait until it "+
			"says what it runs (lockstep node remove NAME, if it will not come back)", names(absent))
	default:
		if len(absent) > 0 && !s.Until.IsZero() {
			return fmt.Sprintf("the cluster is being rebuilt: waiting until %s for what node %s runs",
				s.Until.UTC().Format(time.TimeOnly), names(absent))
		}
		return "the cluster is being rebuilt"
	}
}

// Answer is what a node is told.
func (k *Keeper) Answer(node string) recall.Answer {
	v := k.opts.Store.View()
	s := k.state(v)
	if k.over.Load() || s.Phase == waiting {
		return recall.Answer{}
	}
	a := recall.Answer{Rebuilding: true, Cluster: s.Phase == collecting && s.Asked == node}
	if s.Phase == syncing {
		a.Until = s.Until
	}
	return a
}

// Offer takes in a part of what a node knows, and says how far the rebuild is. An error means that it is to be sent again.
func (k *Keeper) Offer(ctx context.Context, node string, o recall.Offer) (recall.Answer, error) {
	v := k.opts.Store.View()
	if k.state(v); k.over.Load() {
		return recall.Answer{}, nil
	}
	registered := k.opts.Nodes(v, time.Time{})
	if !slices.Contains(registered, node) {
		return recall.Answer{}, fmt.Errorf("cannot take over what node %s runs: it is not registered yet", node)
	}
	if o.Cluster && k.state(v).Asked != node {
		return k.Answer(node), nil // another one is asked by now
	}
	err := k.take(ctx, node, registered, o)
	if err == nil && o.Complete {
		err = k.complete(ctx, node, o)
	}
	if err != nil {
		return recall.Answer{}, fmt.Errorf("cannot take over what node %s runs: %w", node, err)
	}
	return k.Answer(node), nil
}

// take writes what the offer has and the store has not, after a note of what that is.
func (k *Keeper) take(ctx context.Context, node string, registered []string, o recall.Offer) error {
	for try := range attempts {
		v := k.opts.Store.View()
		a := adopt(v, node, copied(o), registered, toldOf(v, k.opts.Cluster.ID), k.opts.Valid, k.opts.Own)
		if try == 0 {
			for _, why := range a.left {
				k.opts.Log.Warn("left out of what a node runs", "node", node, "why", why)
			}
		}
		if len(a.writes) == 0 {
			return nil
		}
		id := k.opts.Cluster.ID
		groups := []store.Group{{{Record: lists.Record(listName(id, part(node, a.keys())), list{Keys: a.keys()}),
			If: store.Anyway, Reason: "what nodes bring"}}}
		for _, w := range a.writes {
			groups = append(groups, store.Group{w})
		}
		conflict, err := k.write(ctx, k.opts.Store, groups)
		if err != nil || !conflict {
			return err
		}
	}
	return errors.New("others write the same objects again and again")
}

// part names the list of these objects of a node.
func part(node string, keys []kinds.Key) string {
	h := sha256.New()
	for _, key := range keys {
		_, _ = fmt.Fprintln(h, key.Path())
	}
	return node + "/" + hex.EncodeToString(h.Sum(nil)[:8])
}

// copied is an offer whose objects may be changed.
func copied(o recall.Offer) recall.Offer {
	out := o
	out.Nodes, out.Claims, out.Volumes = copies(o.Nodes), copies(o.Claims), copies(o.Volumes)
	out.Pods, out.Services, out.Slices = copies(o.Pods), copies(o.Services), copies(o.Slices)
	return out
}

func copies[T interface {
	comparable
	DeepCopy() T
}](in []T) []T {
	var none T
	var out []T
	for _, o := range in {
		if o != none {
			out = append(out, o.DeepCopy())
		}
	}
	return out
}

// complete notes that a node has told all. Pods that it had, and has not offered in any part, are gone.
func (k *Keeper) complete(ctx context.Context, node string, o recall.Offer) error {
	v, id := k.opts.Store.View(), k.opts.Cluster.ID
	row := toldOf(v, id)[node]
	row.At, row.Seen, row.Cluster = k.opts.Now().UTC(), max(row.Seen, o.Seen), row.Cluster || o.Cluster
	var groups []store.Group
	if !o.Cluster {
		offered := map[types.UID]bool{}
		for _, uid := range o.Runs {
			offered[uid] = true
		}
		row.Pods = len(offered)
		for _, w := range ended(v, node, offered) {
			groups = append(groups, store.Group{w})
		}
	}
	groups = append(groups, store.Group{{Record: reports.Record(toldName(id, node), row), If: store.Anyway,
		Reason: "a node has told what it runs"}})
	_, err := k.write(ctx, k.opts.Store, groups)
	if err == nil && !o.Cluster {
		k.opts.Log.Info("a node has told what it runs", "node", node, "pods", row.Pods)
	}
	return err
}

// write commits, and returns once the view shows it. A conflict is no error: it is decided anew.
func (k *Keeper) write(ctx context.Context, c store.Committer, groups []store.Group) (conflict bool, err error) {
	var reached int64
	for _, r := range c.Commit(ctx, groups...) {
		switch {
		case errors.Is(r.Err, store.ErrConflict):
			conflict = true
		case r.Err != nil:
			err = cmp.Or(err, r.Err)
		default:
			reached = max(reached, r.Revision)
		}
	}
	if err != nil {
		return false, err
	}
	if conflict { // of what another has written, the view knows soon
		sleep.For(ctx, look)
	}
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	_, err = k.opts.Store.Wait(ctx, reached)
	return conflict, err
}

// Collect returns once nodes have told what they run, or had their time, if the cluster is to be rebuilt: nothing is to be decided
// before. C is the leader's.
func (k *Keeper) Collect(ctx context.Context, c store.Committer) error {
	for ctx.Err() == nil {
		v := k.opts.Store.View()
		s := k.state(v)
		if k.over.Load() || s.Phase == syncing || s.Phase == waiting {
			return nil
		}
		next := collect(s, toldOf(v, k.opts.Cluster.ID), k.missing(v), k.opts.Now().UTC())
		if next.Phase == s.Phase && next.Asked == s.Asked {
			sleep.For(ctx, look)
			continue
		}
		if err := k.move(ctx, c, next); err != nil {
			return err
		}
	}
	return nil
}

// collect is the state that follows one of collecting, or s itself.
func collect(s state, reports map[string]told, missing []string, now time.Time) state {
	switch {
	case s.Phase == "":
		return state{Phase: collecting, Until: now.Add(collectTime)}
	case s.Asked == "" && len(missing) > 0 && now.Before(s.Until):
		return s
	case s.Asked != "" && !reports[s.Asked].Cluster && now.Before(s.Until):
		return s
	case s.Asked != "" && reports[s.Asked].Cluster:
		return state{Phase: syncing, Until: now.Add(holdTime)}
	}
	if s.Asked != "" {
		s.Tried = append(slices.Clone(s.Tried), s.Asked)
	}
	if next := best(reports, s.Tried); next != "" {
		return state{Phase: collecting, Until: now.Add(clusterTime), Asked: next, Tried: s.Tried}
	}
	return state{Phase: syncing, Until: now.Add(holdTime)}
}

// move writes a state, and tells of it.
func (k *Keeper) move(ctx context.Context, c store.Committer, s state) error {
	record := states.Record(stateName(k.opts.Cluster.ID), s)
	if _, err := k.write(ctx, c, []store.Group{{{Record: record, If: store.Anyway, Reason: "the rebuild goes on"}}}); err != nil {
		return fmt.Errorf("cannot rebuild the cluster: %w", err)
	}
	v := k.opts.Store.View()
	if s.Phase == done {
		k.over.Store(true)
		k.opts.Log.Info("the cluster is rebuilt")
		return nil
	}
	k.opts.Log.Warn(k.Says(v), "phase", s.Phase)
	return nil
}

// Run leads a rebuild from where Collect leaves it to its end, until ctx ends; then it returns nil. C is the leader's.
func (k *Keeper) Run(ctx context.Context, c store.Committer) error {
	k.noteWrite() // who writes first has not yet
	for ctx.Err() == nil && !k.over.Load() {
		v := k.opts.Store.View()
		var err error
		switch s := k.state(v); {
		case s.Phase == syncing && k.settled(v):
			if err = k.dismiss(ctx, c, v); err == nil {
				err = k.conclude(ctx, c, v)
			}
		case s.Phase == waiting && len(k.missing(v)) == 0:
			err = k.conclude(ctx, c, v)
		}
		if err != nil && ctx.Err() == nil && !store.Outage(err) {
			k.opts.Log.Warn("the rebuild does not go on yet", "error", err)
		}
		sleep.For(ctx, look)
	}
	<-ctx.Done()
	return nil
}

// conclude ends the rebuild, or has it wait for nodes that are missing.
func (k *Keeper) conclude(ctx context.Context, c store.Committer, v *view.View) error {
	if len(k.missing(v)) > 0 {
		return k.move(ctx, c, state{Phase: waiting})
	}
	if err := k.forget(ctx, c, v); err != nil {
		return err
	}
	return k.move(ctx, c, state{Phase: done})
}

// settled says that everything is as Git wants: all sources are applied, and what owns the pods that nodes brought is there, or will
// not be.
func (k *Keeper) settled(v *view.View) bool {
	if len(k.opts.Unsettled(v)) > 0 {
		return false
	}
	return len(owners(v)) == 0 || k.opts.Now().Sub(time.Unix(0, k.wrote.Load())) > quiet
}

// brought are the keys of all that nodes brought.
func (k *Keeper) brought(v *view.View) (out []kinds.Key) {
	for row, err := range lists.Rows(v, listPrefix(k.opts.Cluster.ID)) {
		if err == nil {
			out = append(out, row.Value.Keys...)
		}
	}
	slices.SortFunc(out, kinds.Key.Compare)
	return slices.Compact(out)
}

// dismiss deletes of what nodes brought the services, slices and pods that no source states and nobody owns. What has an owner that is gone
// the garbage collector finds; claims and volumes stay, for their data.
func (k *Keeper) dismiss(ctx context.Context, c store.Committer, v *view.View) error {
	var groups []store.Group
	for _, key := range k.brought(v) {
		o := v.Get(key)
		if o == nil || !unwanted(o) || k.opts.Stated(v, key) {
			continue
		}
		changed, gone := k.opts.Delete(o, k.opts.Now())
		w := store.Write{Key: key, If: kinds.Revision(o), Reason: "Git does not have it any more"}
		if !gone {
			w.Object = changed
		}
		groups = append(groups, store.Group{w})
		k.opts.Log.Info("deleting what nodes knew and Git does not have", "object", key.String())
	}
	conflict, err := k.write(ctx, c, groups)
	if err == nil && conflict {
		err = store.ErrConflict
	}
	return err
}

// unwanted says that an object is nobody's, unless a source states it.
func unwanted(o kinds.Object) bool {
	switch o.(type) {
	case *corev1.Service, *discoveryv1.EndpointSlice, *corev1.Pod:
		return len(o.GetOwnerReferences()) == 0 && o.GetDeletionTimestamp() == nil
	}
	return false
}

// forget drops what was noted for the rebuild, of earlier ones too.
func (k *Keeper) forget(ctx context.Context, c store.Committer, v *view.View) error {
	var groups []store.Group
	for r := range v.Records(table, "") {
		if r.Name != stateName(k.opts.Cluster.ID) {
			gone := store.Write{Record: states.Gone(r.Name), If: store.Anyway, Reason: "the cluster is rebuilt"}
			groups = append(groups, store.Group{gone})
		}
	}
	_, err := k.write(ctx, c, groups)
	return err
}
