package turns

import (
	"context"
	"testing"
	"time"
)

// TestPassOn: turns that nobody ends do not hold up the next, and ends are counted once.
func TestPassOn(t *testing.T) {
	turns := New(2, 20*time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var ends []func()
	for range 10 {
		done, err := turns.Take(ctx)
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, done)
	}
	for _, done := range append(ends, ends...) {
		done() // of those that passed on this does nothing
	}
	if !turns.free.TryAcquire(2) {
		t.Error("a turn is lost")
	}
}

func TestTurns(t *testing.T) {
	turns := New(1, time.Hour)
	done, err := turns.Take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := turns.Take(ctx); err == nil {
		t.Error("two turns at a time")
	}
	done()
	if _, err := turns.Take(t.Context()); err != nil {
		t.Error(err)
	}
}
