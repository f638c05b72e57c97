package cluster

import (
	"context"
	"time"

	"lockstep/internal/sleep"
	"lockstep/nodeagent/replica"
)

const (
	// syncGrace is how long the kept state waits for the API's: where the API
	// answers, it is newer than what is kept, and the rules that an earlier run
	// left in the kernel may be newer too.
	syncGrace = 500 * time.Millisecond
	// keepFirst is how long changes are collected before the state is kept;
	// keepShare bounds keeping to a part of the time, whatever its size.
	keepFirst = time.Second
	keepShare = 50
)

// Recall publishes the copy that was kept, if the API does not answer.
func (c *Cluster) Recall(ctx context.Context) error {
	s, err := replica.Load(c.opts.File)
	if err != nil {
		c.opts.Log.Warn("cannot use kept cluster state", "error", err)
	}
	if s == nil {
		return nil
	}
	select {
	case <-ctx.Done():
		return nil
	case <-c.complete:
		return nil
	case <-time.After(syncGrace):
	}
	if c.Publish(&Snapshot{State: *s}) {
		c.opts.Log.Info("using kept cluster state until the API answers", "services", len(s.Services), "nodes", len(s.Nodes))
	}
	return nil
}

// Keep keeps a copy of what the API has after changes, at a bounded rate, and
// once more when ctx ends.
func (c *Cluster) Keep(ctx context.Context) error {
	wake := c.Subscribe()
	select {
	case <-ctx.Done():
		return nil
	case <-c.complete:
	}
	var kept *Snapshot
	keep := func() (took time.Duration) {
		s := c.Snapshot()
		if s == kept {
			return 0
		}
		began := time.Now()
		err := replica.Save(c.opts.File, s.State)
		took = time.Since(began)
		c.opts.Kept(took, err)
		if err != nil {
			c.opts.Log.Warn("cannot keep cluster state", "error", err)
			return took
		}
		kept = s
		return took
	}
	for {
		select {
		case <-ctx.Done():
			keep()
			return nil
		case <-wake:
			sleep.For(ctx, keepFirst)
			sleep.For(ctx, keep()*keepShare)
		}
	}
}
