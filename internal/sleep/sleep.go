// Package sleep waits for a while, at most until a context ends.
package sleep

import (
	"context"
	"time"
)

// For waits for d or for the end of ctx, and says whether ctx goes on. A d that is not positive is over at once.
func For(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
	return ctx.Err() == nil
}
