// Package members keeps the servers of a cluster whose etcd is embedded: who joins, who has a vote, and who is gone.
package members

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"lockstep/daemon/etcd"
	"lockstep/internal/sleep"
	"lockstep/store"
	"lockstep/store/view"
)

// requests is the table of who wants to join.
const requests view.Table[Request] = "server"

const (
	// busyEvery and idleEvery are how often the members are looked at while there is something to do, and else.
	busyEvery, idleEvery = 200 * time.Millisecond, 5 * time.Second
	// stepTimeout bounds one look and what follows from it.
	stepTimeout = 20 * time.Second
)

// Keeper makes the steps by which members come and go; the leader runs it. Its etcd is embedded.
type Keeper struct {
	Etcd   *etcd.Etcd
	Store  store.Reader
	Commit store.Committer
	// Silent says which servers are not heard of; empty: all are.
	Silent func() string
	Log    *slog.Logger

	since map[uint64]time.Time
	told  string
	quiet string
}

// Run decides and acts until ctx ends; then it returns nil.
func (k *Keeper) Run(ctx context.Context) error {
	sub := k.Store.Subscribe("servers")
	defer func() { sub.Close() }()
	k.since = map[uint64]time.Time{}
	failed := ""
	for ctx.Err() == nil {
		busy, err := k.once(ctx)
		if text := fmt.Sprint(err); err != nil && ctx.Err() == nil && text != failed {
			k.Log.Warn("cannot change the servers of the cluster, trying again", "error", err)
			failed = text
		} else if err == nil {
			failed = ""
		}
		if busy {
			sleep.For(ctx, busyEvery)
			continue
		}
		if !k.idle(ctx, sub) {
			sub.Close()
			sub = k.Store.Subscribe("servers")
		}
	}
	return nil
}

// idle returns when somebody asks, or after a while; false: the subscription has ended.
func (k *Keeper) idle(ctx context.Context, sub *store.Subscription) bool {
	pause := time.NewTimer(idleEvery)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return true
		case <-pause.C:
			return true
		case batch, ok := <-sub.C:
			if !ok {
				return false
			}
			if slices.ContainsFunc(batch.Changes, asks) {
				return true
			}
		}
	}
}

// Forget forgets what a server of that name has asked for, if anything: it is removed, and asks anew where it is to come again.
func Forget(name string) store.Write {
	return store.Write{Record: requests.Gone(name), If: store.Anyway, Reason: "server removed"}
}

func asks(c view.Change) bool { return c.NewRecord != nil && c.NewRecord.Table == string(requests) }

// once makes one step. Busy says that there is somebody who waits for the next.
func (k *Keeper) once(ctx context.Context) (busy bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	o := k.look(ctx)
	for _, r := range o.requests {
		busy = busy || !r.Value.Added && r.Value.Refused == ""
	}
	busy = busy || len(o.behind) > 0
	if s := decide(o); s.do != nothing {
		return true, k.act(ctx, s)
	}
	if text := k.Silent(); text != k.quiet {
		k.quiet = text
		if text != "" {
			k.Log.Warn("a server is not heard of", "what", text)
		}
	}
	if text := Standing(o.members); text != k.told && !busy {
		k.told = text
		if text != "" {
			k.Log.Warn("the cluster's servers are no good number", "why", text)
		}
	}
	return busy, nil
}

func (k *Keeper) look(ctx context.Context) observed {
	o := observed{
		members: k.Etcd.Members(), behind: map[uint64]string{}, silent: map[uint64]string{}, since: k.since, now: time.Now(),
	}
	for row, err := range requests.Rows(k.Store.View(), "") {
		if err == nil {
			o.requests = append(o.requests, row)
		}
	}
	for _, m := range o.members {
		if !m.Learner && len(o.requests) == 0 { // nothing is decided from how it does
			continue
		}
		err := k.Etcd.Behind(ctx, m)
		switch {
		case err == nil && m.Name != "":
			delete(k.since, m.ID)
			continue
		case err == nil:
			o.behind[m.ID] = "it has not told its name"
		case m.Learner:
			o.behind[m.ID] = err.Error()
		default:
			o.silent[m.ID] = err.Error()
		}
		if k.since[m.ID].IsZero() {
			k.since[m.ID] = o.now
		}
	}
	return o
}

func (k *Keeper) act(ctx context.Context, s step) error {
	switch s.do {
	case add:
		k.Log.Info("a server joins", "server", s.request.Name, "peer", s.request.Value.Peer)
		if err := k.Etcd.Open(ctx); err != nil {
			return err
		}
		return k.Etcd.AddLearner(ctx, s.request.Value.Peer)
	case promote:
		if err := k.Etcd.Promote(ctx, s.member.ID); err != nil {
			return err
		}
		k.Log.Info("a server has its vote", "server", s.member.Name, "why", s.why)
	case remove:
		k.Log.Warn("a server that was to join is removed", "server", s.member.Name, "peer", s.member.PeerURL, "why", s.why)
		return k.Etcd.Remove(ctx, s.member.ID)
	case accept, refuse:
		r := s.request.Value
		r.Added = s.do == accept
		if s.do == refuse {
			r.Refused = s.why
			k.Log.Warn("a server is refused", "server", s.request.Name, "why", s.why)
		}
		return k.write(ctx, store.Write{Record: requests.Record(s.request.Name, r), If: s.request.Revision, Reason: s.why})
	case forget:
		return k.write(ctx, store.Write{Record: requests.Gone(s.request.Name), If: s.request.Revision, Reason: s.why})
	}
	return nil
}

func (k *Keeper) write(ctx context.Context, w store.Write) error {
	result := k.Commit.Commit(ctx, store.Group{w})[0]
	if errors.Is(result.Err, store.ErrConflict) {
		return nil // it has asked again: the next look sees it
	}
	if result.Err != nil {
		return fmt.Errorf("cannot answer server %s: %w", w.Record.Name, result.Err)
	}
	_, err := k.Store.Wait(ctx, result.Revision)
	return err
}
