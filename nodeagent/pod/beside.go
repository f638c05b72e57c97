package pod

import (
	"context"
	"sync"
)

// Beside does work for pods beside the loop that finds it, so that no pod waits
// for another's: at most one piece a pod, and so many together.
type Beside struct {
	slots chan struct{}
	all   sync.WaitGroup
}

// NewBeside does so many pieces of work together.
func NewBeside(together int) *Beside { return &Beside{slots: make(chan struct{}, together)} }

// turn is one pod's place in a loop's work.
type turn struct {
	mu          sync.Mutex
	busy, again bool
}

// begin does the pod's work soon. If some is under way, it is done once more
// after that: what it would see may have been looked at already.
func (b *Beside) begin(ctx context.Context, t *turn, work func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.busy {
		t.again = true
		return
	}
	t.busy = true
	b.all.Go(func() {
		for more := true; more; more = t.next() {
			select {
			case b.slots <- struct{}{}:
				work()
				<-b.slots
			case <-ctx.Done():
			}
		}
	})
}

// next says whether there is more to do, and ends the turn if not.
func (t *turn) next() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	more := t.again
	t.busy, t.again = more, false
	return more
}

// Wait returns when all work has ended.
func (b *Beside) Wait() { b.all.Wait() }
