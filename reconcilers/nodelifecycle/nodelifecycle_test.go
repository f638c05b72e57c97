package nodelifecycle

import (
	"testing"

	"lockstep/reconcilers/looptest"
)

func TestDecide(t *testing.T) { looptest.Golden(t, "testdata", New()) }
