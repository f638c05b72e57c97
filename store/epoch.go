package store

import (
	"context"
	"sync"
)

// epochs are the times between two elections of etcd's own leader. What was sent to a member that leads no more may never be
// answered, and etcd says so after seven seconds only; once there is another leader, a linearizable read tells whether it was done.
type epochs struct {
	changed func() <-chan struct{}

	mu     sync.Mutex
	ctx    context.Context
	cancel context.CancelFunc
}

func newEpochs(changed func() <-chan struct{}) *epochs {
	e := &epochs{changed: changed}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	return e
}

// now ends with the present epoch.
func (e *epochs) now() context.Context {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.ctx
}

// run begins an epoch with each election until ctx ends.
func (e *epochs) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.changed():
			e.mu.Lock()
			end := e.cancel
			e.ctx, e.cancel = context.WithCancel(context.Background())
			e.mu.Unlock()
			end()
		}
	}
}

// within returns a ctx that ends with the epoch, too.
func (e *epochs) within(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(e.now(), cancel)
	return ctx, func() { stop(); cancel() }
}
