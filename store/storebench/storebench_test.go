package storebench_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"strconv"
	"testing"

	"lockstep/daemon/etcd/etcdtest"
	"lockstep/daemon/heap"
	"lockstep/kinds/strategy"
	"lockstep/store"
	"lockstep/store/storebench"
)

// pods is how many pods the store holds: STOREBENCH_PODS, or 100,000.
func pods(b *testing.B) int {
	text := os.Getenv("STOREBENCH_PODS")
	if text == "" {
		return 100_000
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

func options() store.Options {
	return store.Options{Default: strategy.Default, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
}

// BenchmarkStore wants updates at half of etcd's own rate or better, and opening in twice the time of reading alone.
func BenchmarkStore(b *testing.B) {
	e := etcdtest.Start(b, nil)
	s, err := store.Open(b.Context(), e.Client, options())
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- s.Run(ctx) }()
	go func() { done <- heap.Pace(ctx) }() // as in the daemon
	<-s.Ready()
	if err := storebench.Fill(ctx, s, pods(b)); err != nil {
		b.Fatal(err)
	}
	b.Run("updates", func(b *testing.B) {
		for b.Loop() {
			r, err := storebench.Updates(ctx, s, e, 30_000, 10)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(r.Store, "updates/s")
			b.ReportMetric(r.Etcd, "etcd-puts/s")
			b.ReportMetric(r.Store/r.Etcd, "ratio")
			b.ReportMetric(r.Store/r.Direct, "direct-ratio")
		}
	})
	cancel()
	if err := errors.Join(<-done, <-done); err != nil {
		b.Fatal(err)
	}
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			r, err := storebench.Open(context.Background(), e.Client, options(), 3)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(r.Store, "seconds")
			b.ReportMetric(r.Bound, "read-seconds")
			b.ReportMetric(r.Store/r.Bound, "ratio")
		}
	})
}
