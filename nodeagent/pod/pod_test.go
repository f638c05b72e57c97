package pod

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"lockstep/nodeagent/volumes"
)

// TestTerminationMessage keeps the end of what is too long, and no more than that.
func TestTerminationMessage(t *testing.T) {
	r := Records{t.TempDir()}
	for range 2 { // made once
		if _, err := r.terminationLog("u", "c", 0); err != nil {
			t.Fatal(err)
		}
	}
	path := r.messageFile("u", "c", 0)
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o666 {
		t.Fatalf("mode %v, %v", info, err)
	}
	if err := os.WriteFile(path, []byte(strings.Repeat("x", 5<<20)+"the end"), 0); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		text, err := r.takeMessage("u", "c", 0, maxMessage)
		if err != nil || len(text) != maxMessage || !strings.HasSuffix(text, "xthe end") {
			t.Errorf("message of %d bytes, %v", len(text), err)
		}
		if info, err := os.Stat(path); err != nil || info.Size() != maxMessage {
			t.Errorf("%d bytes stay, %v", info.Size(), err)
		}
	}
	if text, err := r.takeMessage("u", "none", 0, maxMessage); text != "" || err != nil {
		t.Errorf("of none: %q, %v", text, err)
	}
}

// TestBeside blocks some pods' work for good: the others' is done all the same, and none is lost.
func TestBeside(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	b := NewBeside(2)
	defer b.Wait()
	defer cancel()
	var stuck, free turn
	b.begin(ctx, &stuck, func() { <-ctx.Done() })
	b.begin(ctx, &stuck, func() { t.Error("a second piece of one pod's work runs beside the first") })
	var done atomic.Int32
	begun, more := make(chan struct{}), make(chan struct{})
	b.begin(ctx, &free, func() {
		if done.Add(1) == 1 {
			close(begun)
			<-more
		}
	})
	<-begun
	for range 3 {
		b.begin(ctx, &free, func() {})
	}
	close(more)
	for deadline := time.Now().Add(30 * time.Second); done.Load() != 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("done %d times", done.Load())
		}
	}
}

// TestStaleVolumesAreToldNowAndThen tells of the same failure once in a while, of another at once.
func TestStaleVolumesAreToldNowAndThen(t *testing.T) {
	p := &Pod{uid: types.UID("u")}
	fail := func(cause string) []*volumes.Error {
		return []*volumes.Error{{Volume: "v", Cause: fmt.Errorf("%s", cause)}}
	}
	start := time.Now()
	for _, step := range []struct {
		after  time.Duration
		failed []*volumes.Error
		told   int
	}{
		{0, fail("a"), 1}, {time.Second, fail("a"), 0}, {2 * time.Second, fail("b"), 1}, {time.Minute, fail("b"), 0},
		{time.Hour, fail("b"), 1}, {2 * time.Hour, nil, 0}, {2*time.Hour + time.Second, fail("b"), 1},
	} {
		if got := p.untold(step.failed, start.Add(step.after)); len(got) != step.told {
			t.Errorf("after %s: %v", step.after, got)
		}
	}
}
