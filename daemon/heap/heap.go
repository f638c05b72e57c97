// Package heap paces the garbage collector by what is alive.
package heap

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// usual is Go's own GOGC: the heap doubles between collections.
	usual = 100
	// relaxed lets it triple. A control plane's heap is objects that stay, of many small parts: looking through 100,000
	// pods takes a third of a second of a core, and under load that was a quarter of all its work at the usual pace.
	relaxed = 200
	// relaxFrom and tightenBelow bytes alive are where the pace changes. A small cluster's process stays small.
	relaxFrom    = 256 << 20
	tightenBelow = 192 << 20
	// lookEvery is often enough: a heap grows by its own size in some seconds at the fastest.
	lookEvery = 2 * time.Second
)

// live is what the last collection left, in bytes.
const live = "/gc/heap/live:bytes"

// Pace sets the collector's pace until ctx ends; then it returns nil, with the pace as it was. Where the environment sets
// GOGC it does nothing.
func Pace(ctx context.Context) error {
	if _, set := os.LookupEnv("GOGC"); set {
		<-ctx.Done()
		return nil
	}
	defer debug.SetGCPercent(usual)
	sample := []metrics.Sample{{Name: live}}
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for percent := usual; ; {
		metrics.Read(sample)
		if next := pace(percent, sample[0].Value.Uint64()); next != percent {
			debug.SetGCPercent(next)
			percent = next
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// pace returns the GOGC for so many bytes alive, after one for earlier ones.
func pace(percent int, alive uint64) int {
	switch {
	case alive >= relaxFrom:
		return relaxed
	case alive < tightenBelow:
		return usual
	}
	return percent
}
