// Package store keeps typed objects in etcd and one in-memory view of them.
package store

import (
	"context"
	"errors"

	coordinationv1 "k8s.io/api/coordination/v1"

	"lockstep/kinds"
	"lockstep/store/view"
)

// Write is one conditional change of one object or one record. Object and Record are not both set; where neither is,
// the object at Key is deleted. A Record with nil Data is deleted.
type Write struct {
	Key    kinds.Key
	Object kinds.Object
	Record *view.Record
	// If is the etcd mod revision the change was decided from (the object's resourceVersion): the write happens only if
	// it is still that one. Zero: the key must not exist. Anyway: no condition.
	If int64
	// Reason says why, for the log and the events; required of every reconciler.
	Reason string
}

// Anyway is the If of a write without a condition.
const Anyway int64 = -1

// Group is a list of writes that happen together or not at all; at most MaxGroup of them, each key at most once.
type Group []Write

// MaxGroup bounds a group: a nested transaction costs one operation of etcd's 128 for itself.
const MaxGroup = 126

// Result is what became of one group.
type Result struct {
	// Revision of the store after the group was written. Zero where Err is set.
	Revision int64
	// Err is nil, or matches ErrConflict, ErrDeposed, ErrTooLarge, ErrUnknown or the context's error.
	Err error
}

var (
	// ErrConflict: a condition did not hold; nothing of the group was written. Decide again from a newer view.
	ErrConflict = errors.New("the object has changed since it was decided from")
	// ErrDeposed: this process is no longer the leader; nothing was written.
	ErrDeposed = errors.New("this process is not the leader")
	// ErrTooLarge: an object passes 1 MiB or a group passes etcd's limits; nothing was written.
	ErrTooLarge = errors.New("the write is too large for etcd")
	// ErrUnknown: etcd did not answer in time; the group may or may not have been written. The view will tell.
	ErrUnknown = errors.New("the outcome of the write is not known")
	// ErrUnavailable: etcd refuses writes for now (full, or without a quorum); nothing was written.
	ErrUnavailable = errors.New("etcd does not take writes")
	// errRefused, beside ErrUnavailable: etcd is well and refuses this client or this request.
	errRefused = errors.New("it refuses this one")
)

// Outage says that a write failed because etcd is full or away: the store has told the log of it, once, and Health
// tells it. What fails in its course need not be told again.
func Outage(err error) bool {
	return (errors.Is(err, ErrUnavailable) || errors.Is(err, ErrUnknown)) && !errors.Is(err, errRefused)
}

// Committer takes writes. The store's own is for nodes' writes through the API; a leader's refuses with ErrDeposed once
// another process leads.
type Committer interface {
	// Commit writes each group as a conditional transaction of its own, grouped with others on the wire, and returns
	// one result a group, in their order. It blocks until etcd has answered for all of them. On create it sets uid,
	// creationTimestamp and (for kinds that count them) generation 1 where they are empty; it changes none of the
	// objects passed in. Calling it with nothing returns nil.
	Commit(ctx context.Context, groups ...Group) []Result
}

// Backend is everything a store offers; *Store and the memory store have it, and one conformance suite tests both.
type Backend interface {
	Reader
	Committer
	Recorder

	// Run keeps the view and carries out writes until ctx ends; it returns nil then. Nothing else works before it runs.
	Run(ctx context.Context) error
	// Ready is closed once the first view is complete.
	Ready() <-chan struct{}
	// Health is nil while reads and writes work, else it says in one line what does not.
	Health() error
	// Current returns the store's revision, not older than the call: a view that has reached it has every write that
	// had been answered before the call.
	Current(ctx context.Context) (int64, error)
	// Step makes a revision of its own in which nothing changes, later than the call began, and returns it.
	Step(ctx context.Context) (int64, error)
	// History returns every change of objects with from < Revision <= to, in order. Since is from, or a later revision
	// where the store remembers no further back. Heartbeats and records are not part of it.
	History(ctx context.Context, from, to int64) (since int64, changes []view.Change, err error)
	// Renew takes a node's heartbeat. It never blocks; the newest of each node is written once a period, grouped, and
	// seen in the view as the Lease kube-node-lease/<node>.
	Renew(node string, lease *coordinationv1.Lease)
	// Lead runs f whenever this process leads, with a ctx that ends when it no longer does and a Committer that refuses
	// with ErrDeposed from then on. It campaigns again after a loss, returns nil when ctx ends, and returns what f
	// returns where f ends while still leading.
	Lead(ctx context.Context, id string, f func(ctx context.Context, c Committer) error) error
}

// Reader gives views.
type Reader interface {
	// View returns the newest view; before the first load is complete it blocks nobody and is empty at revision 0.
	View() *view.View
	// Wait returns the first view it sees at revision rev or later.
	Wait(ctx context.Context, rev int64) (*view.View, error)
	// Subscribe tells of every batch applied after it returns. Close the subscription to end it.
	Subscribe(name string) *Subscription
}

// Batch is all changes of one revision step, in etcd's order, with the view that has them. A step may be of several
// revisions, never of part of one, and of none of our changes.
type Batch struct {
	View    *view.View
	Changes []view.Change
}

// Recorder takes Kubernetes events. It aggregates equal ones as Kubernetes does, drops the oldest over its bound, and
// never blocks or fails its caller.
type Recorder interface {
	// Event records what happened to an object; kind is corev1.EventTypeNormal or corev1.EventTypeWarning; component is
	// the reporting controller ("deployment-controller").
	Event(component string, about kinds.Object, kind, reason, message string)
}
