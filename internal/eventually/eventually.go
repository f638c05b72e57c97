// Package eventually waits, in tests, for what takes its time.
package eventually

import (
	"context"
	"errors"
	"testing"
	"time"

	"lockstep/internal/sleep"
)

// Between two looks is a pause, which doubles from first, since most of what tests wait for is there soon, to most, since
// the tests of other packages run beside. It is never shorter than a look took.
const (
	first = time.Millisecond
	most  = 50 * time.Millisecond
)

// Nil returns once check returns nil. After d it ends the test with check's last error.
func Nil(t testing.TB, d time.Duration, what string, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d) // a test's own ends before its clean-up
	defer cancel()
	if err := Do(ctx, check); err != nil {
		t.Fatalf("not within %s: %s: %v", d, what, err)
	}
}

// True returns once holds is true. After d it ends the test.
func True(t testing.TB, d time.Duration, what string, holds func() bool) {
	t.Helper()
	Nil(t, d, what, func() error {
		if !holds() {
			return errors.New("it does not hold")
		}
		return nil
	})
}

// Do calls check until that returns nil, and once at least. After the end of ctx it returns check's last error.
func Do(ctx context.Context, check func() error) error {
	for pause := first; ; pause = min(2*pause, most) {
		over := ctx.Err() != nil
		began := time.Now()
		err := check()
		if err == nil || over {
			return err
		}
		sleep.For(ctx, max(pause, time.Since(began)))
	}
}
