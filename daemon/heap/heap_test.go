package heap

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/metrics"
	"testing"
	"time"

	"lockstep/internal/eventually"
)

func TestPace(t *testing.T) {
	for _, test := range []struct {
		name    string
		percent int
		alive   uint64
		want    int
	}{
		{"a small cluster", usual, 30 << 20, usual},
		{"a large one", usual, 600 << 20, relaxed},
		{"in between stays as it was", usual, 200 << 20, usual},
		{"on the way back too", relaxed, 200 << 20, relaxed},
		{"small again", relaxed, 100 << 20, usual},
	} {
		if got := pace(test.percent, test.alive); got != test.want {
			t.Errorf("%s: %d, want %d", test.name, got, test.want)
		}
	}
}

// TestPaceFollowsTheHeap fills the heap and looks at what Go says its pace is.
func TestPaceFollowsTheHeap(t *testing.T) {
	t.Setenv("GOGC", "") // so that it is restored
	if err := os.Unsetenv("GOGC"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	ballast := make([]byte, relaxFrom+1<<20)
	runtime.GC()
	go func() { done <- Pace(ctx) }()
	wait(t, relaxed)
	runtime.KeepAlive(ballast)
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	wait(t, usual)
}

// wait waits until the pace is the one wanted.
func wait(t *testing.T, want int) {
	t.Helper()
	sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	eventually.Nil(t, 20*time.Second, "the pace", func() error {
		metrics.Read(sample)
		if got := int(sample[0].Value.Uint64()); got != want {
			return fmt.Errorf("GOGC is %d, want %d", got, want)
		}
		return nil
	})
}
