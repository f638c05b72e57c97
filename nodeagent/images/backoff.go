package images

import (
	"sync"
	"time"
)

const (
	// firstBackoff and maxBackoff are the kubelet's for image pulls.
	firstBackoff = 10 * time.Second
	maxBackoff   = 5 * time.Minute
	// forgetAfter is when a failure is forgotten; then the next one begins at firstBackoff again.
	forgetAfter = 2 * maxBackoff
)

// backoff remembers what failed to be pulled, and how long to leave it alone. It is safe for concurrent use.
type backoff struct {
	mu       sync.Mutex
	failures map[string]failure
}

type failure struct {
	at      time.Time
	wait    time.Duration
	message string
}

// until returns when the key may be tried again and why it failed; false when it may now.
func (b *backoff) until(key string, now time.Time) (time.Time, string, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f, ok := b.failures[key]
	end := f.at.Add(f.wait)
	return end, f.message, ok && now.Before(end)
}

// fail notes a failure; the wait doubles with each.
func (b *backoff) fail(key string, now time.Time, message string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for k, f := range b.failures {
		if now.Sub(f.at) > f.wait+forgetAfter {
			delete(b.failures, k)
		}
	}
	wait := firstBackoff
	if f, ok := b.failures[key]; ok {
		wait = min(2*f.wait, maxBackoff)
	}
	b.failures[key] = failure{at: now, wait: wait, message: message}
}

func (b *backoff) succeed(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.failures, key)
}
