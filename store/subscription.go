package store

import "sync"

// subscriptionDepth bounds what a slow subscriber may leave unread before it is cut off: at 20,000 writes a second in
// batches of about 100, some 20 seconds' worth.
const subscriptionDepth = 4096

// Subscription is one reader's queue of batches.
type Subscription struct {
	// C yields the batches in order. It is closed when the subscription is closed or has overflowed; Overflowed tells.
	C <-chan Batch

	name string
	c    chan Batch
	mu   sync.Mutex
	over bool
	done bool
	end  func(*Subscription)
}

// NewSubscription returns an open subscription; end is called once when it is closed, and may be nil.
func NewSubscription(name string, end func(*Subscription)) *Subscription {
	c := make(chan Batch, subscriptionDepth)
	return &Subscription{C: c, c: c, name: name, end: end}
}

// Offer appends a batch, or closes the subscription as overflowed where its reader is too far behind. It never blocks.
func (s *Subscription) Offer(b Batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done {
		return
	}
	select {
	case s.c <- b:
	default:
		s.over, s.done = true, true
		close(s.c)
	}
}

// Overflowed says that batches were lost: the reader starts again from a view.
func (s *Subscription) Overflowed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over
}

// Close ends the subscription. Calling it again does nothing.
func (s *Subscription) Close() {
	s.mu.Lock()
	if !s.done {
		s.done = true
		close(s.c)
	}
	end := s.end
	s.end = nil
	s.mu.Unlock()
	if end != nil {
		end(s)
	}
}
