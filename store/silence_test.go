package store

import (
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
)

// TestHeartbeatAfterSilence: a heartbeat waits for the period, unless the node was not heard of for longer than one may be lost.
func TestHeartbeatAfterSilence(t *testing.T) {
	now := time.Unix(0, 0)
	b := newHeartbeats(&Store{now: func() time.Time { return now }}, 5*time.Second)
	b.mine["n"] = beat{lease: &coordinationv1.Lease{}, received: now}
	for _, c := range []struct {
		after  time.Duration
		atOnce bool
	}{{10 * time.Second, false}, {11 * time.Second, false}, {20 * time.Second, true}, {10 * time.Second, false}, {10 * time.Minute, true}} {
		now = now.Add(c.after)
		b.renew("n", &coordinationv1.Lease{})
		atOnce := false
		select {
		case <-b.prod:
			atOnce = true
		default:
		}
		if atOnce != c.atOnce {
			t.Errorf("a heartbeat after %s is written at once: %v", c.after, atOnce)
		}
	}
}
