package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"

	"golang.org/x/sync/errgroup"
	"lockstep/internal/sleep"
	"lockstep/store/view"
)

const (
	// pageSize of a load: some megabytes a request at a few kilobytes an object, decoded while the next one travels.
	pageSize = 2000
	// pageTimeout bounds one page on a slow disk.
	pageTimeout = 30 * time.Second
	// applyMost is how many changes one step of the view takes when the watch is behind: a step has a fixed cost, and
	// readers wait for the whole of it.
	applyMost = 4000
	// stepsAhead is how many responses are decoded while the view takes those before them: a few transactions' worth.
	stepsAhead = 32
	// progressDelay is how long a reader waits for a revision before the watch is asked whether it has passed.
	progressDelay = 30 * time.Millisecond
	// retryLeast and retryMost are the pauses after a failed load or a cut watch.
	retryLeast = 100 * time.Millisecond
	retryMost  = 5 * time.Second
)

// follow keeps the view equal to etcd until ctx ends.
func (s *Store) follow(ctx context.Context) error {
	pause := retryLeast
	loaded := false
	for {
		var err error
		if !loaded {
			err = s.load(ctx)
		}
		if err == nil {
			loaded = true
			begun := time.Now()
			if err = s.watch(ctx); time.Since(begun) > retryMost { // one that ends at once is not asked for more and more often
				pause = retryLeast
			}
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrNewerFormat), errors.Is(err, ErrWrongKeys):
			return fmt.Errorf("cannot go on: %w", err)
		case errors.Is(err, rpctypes.ErrCompacted):
			s.log.Info("etcd has compacted revisions not seen yet, loading everything again", "revision", s.View().Revision())
			s.metrics.restarts.WithLabelValues("compacted").Inc()
			loaded = false
		default:
			s.warn(ctx, "watching etcd was interrupted", "error", err)
			s.metrics.restarts.WithLabelValues("interrupted").Inc()
		}
		sleep.For(ctx, pause)
		pause = min(2*pause, retryMost)
	}
}

// load reads everything at one revision and makes it the view.
func (s *Store) load(ctx context.Context) error {
	start := time.Now()
	items, rev, err := s.readAll(ctx)
	if err != nil {
		return fmt.Errorf("cannot load: %w", err)
	}
	if s.View().Revision() == 0 {
		if err := rightKeys(items); err != nil {
			return err
		}
	}
	changes, errs := s.fold.reload(s.View(), items, rev)
	if err := s.report(errs); err != nil {
		return err
	}
	s.publish(rev, changes)
	s.metrics.loadSeconds.Observe(time.Since(start).Seconds())
	s.readyOnce.Do(func() {
		s.log.Info("the store is loaded", "keys", len(items), "revision", rev, "took", time.Since(start))
		s.state.set(stateServing, nil)
		close(s.ready)
	})
	return nil
}

// readAll reads and decodes every key at one revision. Pages are decoded while later ones travel.
func (s *Store) readAll(ctx context.Context) (items []item, rev int64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pages := make(chan []*mvccpb.KeyValue, 2) // two pages ahead: decoding and reading take about the same time
	var reading errgroup.Group
	reading.Go(func() (err error) {
		defer close(pages)
		rev, err = s.readPages(ctx, pages)
		return err
	})
	v := s.View()
	for page := range pages {
		items = append(items, decodeAll(len(page), func(i int) item { return s.fold.decode(v, page[i], false) })...)
	}
	err = reading.Wait()
	return items, rev, err
}

func (s *Store) readPages(ctx context.Context, pages chan<- []*mvccpb.KeyValue) (rev int64, err error) {
	from, end := string(s.keys), clientv3.GetPrefixRangeEnd(string(s.keys))
	for {
		resp, err := s.page(ctx, from, end, rev)
		if err != nil {
			return 0, err
		}
		if rev == 0 {
			rev = resp.Header.Revision
			if err := s.learn(ctx, rev); err != nil {
				return 0, err
			}
		}
		if len(resp.Kvs) > 0 {
			select {
			case pages <- resp.Kvs:
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		}
		if !resp.More {
			return rev, nil
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

func (s *Store) page(ctx context.Context, from, end string, rev int64) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	return s.client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(pageSize), clientv3.WithRev(rev))
}

// watch applies what etcd tells from the view's revision on, until the watch is cut; ErrCompacted says that it cannot
// go on from there. Etcd never splits a revision over responses, and the client puts fragments together again, so a
// view never shows half a transaction.
func (s *Store) watch(ctx context.Context) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	responses := s.client.Watch(ctx, string(s.keys), clientv3.WithPrefix(), clientv3.WithRev(s.View().Revision()+1),
		clientv3.WithFragment(), clientv3.WithProgressNotify(), clientv3.WithCreatedNotify())
	s.watching.Store(&ctx)
	defer s.watching.Store(nil)
	steps := make(chan step, stepsAhead)
	var decoding sync.WaitGroup
	decoding.Go(func() {
		defer close(steps)
		for resp := range responses {
			steps <- s.decodeStep(resp)
		}
	})
	defer func() {
		cancel()
		for range steps {
		}
		decoding.Wait()
	}()
	for first := range steps {
		start := time.Now()
		next := gather(first, steps)
		if err := s.apply(next); err != nil {
			return err
		}
		if next.err != nil {
			return next.err
		}
		s.metrics.applySecs.Observe(time.Since(start).Seconds())
	}
	return errors.New("the watch has ended")
}

// step is one response of the watch, decoded, or several joined.
type step struct {
	rev   int64 // up to which everything is in; zero for a response that says nothing
	items []item
	err   error // ends the watch, after the items
}

func (s *Store) decodeStep(resp clientv3.WatchResponse) step {
	if err := resp.Err(); err != nil {
		return step{err: err}
	}
	if err := s.learnFirst(resp.Events); err != nil {
		return step{err: err}
	}
	v := s.View()
	next := step{items: decodeAll(len(resp.Events), func(i int) item {
		return s.fold.decode(v, resp.Events[i].Kv, resp.Events[i].Type == clientv3.EventTypeDelete)
	})}
	if n := len(resp.Events); n > 0 {
		next.rev = resp.Events[n-1].Kv.ModRevision
	} else if resp.IsProgressNotify() {
		next.rev = resp.Header.Revision // everything up to it has been sent
	}
	return next
}

// gather joins a step with those that already wait behind it.
func gather(all step, more <-chan step) step {
	for all.err == nil && len(all.items) < applyMost {
		select {
		case next, ok := <-more:
			if !ok {
				return all
			}
			all.items, all.err = append(all.items, next.items...), next.err
			all.rev = max(all.rev, next.rev)
		default:
			return all
		}
	}
	return all
}

// apply makes the next view of a step.
func (s *Store) apply(next step) error {
	v := s.View()
	if next.rev <= v.Revision() {
		return nil
	}
	changes, errs := s.fold.changes(v, next.items)
	if err := s.report(errs); err != nil {
		return err
	}
	s.publish(next.rev, changes)
	return nil
}

// report logs what could not be decoded; it returns the error that ends the store, if there is one.
func (s *Store) report(errs []error) error {
	for _, err := range errs {
		if errors.Is(err, ErrNewerFormat) {
			return err
		}
		s.log.Error("a value in etcd cannot be read", "error", err)
	}
	s.metrics.broken.Set(float64(s.fold.brokenCount()))
	s.metrics.unreadable.Set(float64(s.fold.unreadCount()))
	return nil
}

// askProgress has the watch say how far it is, until the view has reached rev or ctx ends.
func (s *Store) askProgress(ctx context.Context, rev int64) {
	for ctx.Err() == nil && s.View().Revision() < rev {
		if watching := s.watching.Load(); watching != nil {
			// The request goes over the watch's stream, which is found by the values of its ctx.
			if err := s.client.RequestProgress(*watching); err != nil {
				s.log.Debug("cannot ask the watch for progress", "error", err)
			}
		}
		sleep.For(ctx, 10*progressDelay)
	}
}

// History returns the changes of objects and events with from < revision <= to, in order.
func (s *Store) History(ctx context.Context, from, to int64) (since int64, changes []view.Change, err error) {
	for from < to {
		since, changes, err := s.readHistory(ctx, from, to)
		var compacted compactedError
		if !errors.As(err, &compacted) {
			return since, changes, err
		}
		from = int64(compacted)
	}
	return from, nil, nil
}

// compactedError holds the revision up to which history is gone.
type compactedError int64

func (e compactedError) Error() string {
	return fmt.Sprintf("history is compacted up to revision %d", int64(e))
}

// historyStream gives the ctx a watch stream of its own: progress is told of a whole stream.
func historyStream(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(clientv3.WithRequireLeader(ctx), "lockstep-stream", "history")
}

func (s *Store) readHistory(ctx context.Context, from, to int64) (since int64, changes []view.Change, err error) {
	since = from
	ctx, cancel := context.WithCancel(historyStream(ctx))
	defer cancel()
	responses := s.client.Watch(ctx, string(s.keys), clientv3.WithPrefix(), clientv3.WithRev(from+1), clientv3.WithPrevKV(),
		clientv3.WithFragment(), clientv3.WithCreatedNotify())
	ask := time.NewTicker(progressDelay)
	defer ask.Stop()
	for {
		select {
		case <-ctx.Done():
			return since, nil, ctx.Err()
		case <-ask.C:
			if err := s.client.RequestProgress(ctx); err != nil {
				return since, nil, fmt.Errorf("cannot read history: %w", err)
			}
		case resp, ok := <-responses:
			if ok && resp.CompactRevision > 0 {
				return since, nil, compactedError(resp.CompactRevision)
			}
			if err := resp.Err(); !ok || err != nil {
				return since, nil, fmt.Errorf("cannot read history: the watch has ended: %w", errors.Join(err, ctx.Err()))
			}
			for _, e := range resp.Events {
				if e.Kv.ModRevision > to {
					return since, changes, nil
				}
				c, readable := s.past(e)
				if !readable { // its key is no longer here: nothing older can be told without a gap
					since, changes = e.Kv.ModRevision, nil
				} else if c.Old != nil || c.New != nil {
					changes = append(changes, c)
				}
			}
			if resp.IsProgressNotify() && resp.Header.Revision >= to {
				return since, changes, nil
			}
		}
	}
}

// past returns the change of an event of an object, with neither state where it is of none; what cannot be decoded counts as
// absent. Not readable: the event is of values that are sealed with a key that is not here.
func (s *Store) past(e *clientv3.Event) (_ view.Change, readable bool) {
	p, err := s.keys.parse(string(e.Kv.Key))
	if err != nil || p.part != objectPart && p.part != eventPart {
		return view.Change{}, true
	}
	c := view.Change{Key: p.key, Revision: e.Kv.ModRevision}
	if e.PrevKv != nil {
		it := s.fold.decode(&view.View{}, e.PrevKv, false)
		if it.whyUnreadable() != nil {
			return c, false
		}
		c.Old = it.object
	}
	if e.Type != clientv3.EventTypeDelete {
		it := s.fold.decode(&view.View{}, e.Kv, false)
		if it.whyUnreadable() != nil {
			return c, false
		}
		c.New = it.object
	}
	return c, true
}
