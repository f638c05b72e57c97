package nodelifecycle

import (
	"testing"
	"time"

	"lockstep/reconcilers/looptest"
)

func TestDecide(t *testing.T) { looptest.Golden(t, "testdata", New(time.Time{})) }

func TestDecideAfterStart(t *testing.T) {
	looptest.Golden(t, "testdata/started", New(looptest.Now.Add(-5*time.Second)))
}
