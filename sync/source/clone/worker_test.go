package clone

import (
	"context"
	"strings"
	"testing"
	"time"
)

// TestCrewIsBounded: beyond so many processes a look waits, says for what, and is made once one is free.
func TestCrewIsBounded(t *testing.T) {
	crew := NewCrew()
	for range crewMost {
		crew.looking <- struct{}{}
	}
	w := NewWorker(Place{Dir: t.TempDir() + "/git", URL: "file:///nowhere", Silence: time.Second}, crew)
	defer w.Close()
	if _, err := w.Look(t.Context(), Look{}); err == nil ||
		!strings.Contains(err.Error(), "16 repositories are being read, and none was done within 1s") {
		t.Errorf("said: %v", err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := w.Look(ended, Look{}); err != context.Canceled {
		t.Errorf("said to one who has left: %v", err)
	}
	<-crew.looking
	w.place.Silence = time.Minute
	if _, err := w.Look(t.Context(), Look{}); err == nil || strings.Contains(err.Error(), "being read") {
		t.Errorf("said: %v", err)
	}
	if n := len(crew.looking); n != crewMost-1 {
		t.Errorf("%d places are taken", n)
	}
}
