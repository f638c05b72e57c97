package sleep

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, end := context.WithCancel(t.Context())
		time.AfterFunc(90*time.Second, end)
		for _, c := range []struct {
			d, takes time.Duration
			on       bool
		}{
			{0, 0, true}, {-time.Second, 0, true}, {time.Minute, time.Minute, true},
			{time.Minute, 30 * time.Second, false}, {time.Minute, 0, false}, {0, 0, false},
		} {
			began := time.Now()
			if on := For(ctx, c.d); on != c.on || time.Since(began) != c.takes {
				t.Errorf("%s: goes on %t after %s, want %t after %s", c.d, on, time.Since(began), c.on, c.takes)
			}
		}
	})
}
