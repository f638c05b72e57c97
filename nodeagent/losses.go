package nodeagent

import (
	"context"
	"fmt"
	"io"
	"time"

	corev1 "k8s.io/api/core/v1"

	"lockstep/nodeagent/logs"
)

const (
	// lossPeriod is how often the log keeper is asked what it lost.
	lossPeriod = 10 * time.Second
	// lossPause is the least time between two events about one container's log: a full disk loses lines all the time.
	lossPause = 5 * time.Minute
)

// losses remembers what was told of each stream's losses.
type losses map[string]loss

type loss struct {
	lines int64     // lost, when it was looked last
	told  time.Time // of the newest event
}

// note returns the streams whose losses are to be told now, and forgets those that are closed.
func (l losses) note(streams []logs.StreamStats, now time.Time) []logs.StreamStats {
	var out []logs.StreamStats
	open := map[string]bool{}
	for _, s := range streams {
		open[s.Stream.ID] = true
		before := l[s.Stream.ID]
		if s.DroppedLines > before.lines && now.Sub(before.told) >= lossPause {
			out = append(out, s)
			l[s.Stream.ID] = loss{s.DroppedLines, now}
		}
	}
	for id := range l {
		if !open[id] {
			delete(l, id)
		}
	}
	return out
}

// tellLosses logs and reports output that the log keeper could not write, until ctx ends.
func (a *Agent) tellLosses(ctx context.Context) error {
	known := losses{}
	t := time.NewTicker(lossPeriod)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		stats, err := a.logs.Stats(ctx)
		if err != nil {
			continue // the log keeper is being started again
		}
		for _, s := range known.note(stats.Streams, time.Now()) {
			a.log.Warn("a container's output was lost", "container", s.Stream.ID, "lines", s.DroppedLines, "bytes",
				s.DroppedBytes, "error", s.Error)
			a.mu.Lock()
			p := a.claims[s.Stream.ID]
			a.mu.Unlock()
			if p != nil {
				p.Event(corev1.EventTypeWarning, "LogLinesLost",
					fmt.Sprintf("%d lines of output could not be written to %s and are lost", s.DroppedLines, s.Stream.Path))
			}
		}
	}
}

// tellGaps writes what the log of a stream has not told yet of its losses, because its disk takes nothing.
func (a *Agent) tellGaps(ctx context.Context, id string, w io.Writer) {
	ctx, cancel := context.WithTimeout(ctx, keeperPatience)
	defer cancel()
	stats, err := a.logs.Stats(ctx)
	if err != nil {
		return
	}
	for _, s := range stats.Streams {
		for _, g := range s.Gaps {
			if s.Stream.ID == id && g.Lines > 0 {
				fmt.Fprintln(w, g)
			}
		}
	}
}
