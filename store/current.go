package store

import (
	"context"
	"errors"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// readTimeout bounds a linearizable read; etcd itself gives up after some 5 s without a leader.
const readTimeout = 6 * time.Second

// currentReads shares linearizable requests among callers: a caller joins one only while it has not been sent yet.
type currentReads struct {
	read func(context.Context) (int64, error)
	wake chan struct{} // one token: there is a next

	mu   sync.Mutex
	next *currentRead
}

type currentRead struct {
	done chan struct{}
	rev  int64
	err  error
}

func newCurrentReads(read func(context.Context) (int64, error)) *currentReads {
	return &currentReads{read: read, wake: make(chan struct{}, 1)}
}

// get returns what a read begun after its own beginning returned.
func (c *currentReads) get(ctx context.Context) (int64, error) {
	c.mu.Lock()
	if c.next == nil {
		c.next = &currentRead{done: make(chan struct{})}
		c.wake <- struct{}{} // never blocks: run takes the token before it takes next
	}
	mine := c.next
	c.mu.Unlock()
	select {
	case <-mine.done:
		return mine.rev, mine.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// run does the reads until ctx ends.
func (c *currentReads) run(ctx context.Context) {
	for {
		select {
		case <-c.wake:
		case <-ctx.Done():
			return
		}
		c.mu.Lock()
		r := c.next
		c.next = nil
		c.mu.Unlock()
		r.rev, r.err = c.read(ctx)
		close(r.done)
	}
}

// Current returns the store's revision by a linearizable read, shared with other callers of the moment. While etcd is
// known not to answer it fails at once: callers would only pile up.
func (s *Store) Current(ctx context.Context) (int64, error) {
	if err := s.Health(); errors.Is(err, ErrGone) {
		return 0, err
	}
	return s.reads.get(ctx)
}

// Step makes a revision in which nothing changes, shared with other callers of the moment.
func (s *Store) Step(ctx context.Context) (int64, error) { return s.steps.get(ctx) }

func (s *Store) step(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	resp, err := s.client.Put(ctx, s.keys.step(), "")
	if err != nil {
		return 0, err
	}
	return resp.Header.Revision, nil
}

func (s *Store) readRevision(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	resp, err := s.client.Get(ctx, s.keys.cluster(), clientv3.WithKeysOnly())
	if err != nil {
		return 0, err
	}
	return resp.Header.Revision, nil
}

func (s *Store) probe(ctx context.Context) error {
	_, err := s.readRevision(ctx)
	return err
}
