package nodelifecycle

import (
	"testing"
	"time"

	"lockstep/reconcilers/looptest"
)

func TestDecide(t *testing.T) {
	looptest.Golden(t, "testdata", New(func() time.Time { return time.Time{} }))
}

func TestDecideAfterStart(t *testing.T) {
	looptest.Golden(t, "testdata/started", New(func() time.Time { return looptest.Now.Add(-5 * time.Second) }))
}
