package garbagecollection

import (
	"testing"
	"time"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/reconcilers/looptest"
	"lockstep/store/view"
)

func TestOwners(t *testing.T) { looptest.Golden(t, "testdata/owners", Owners()) }

func TestPods(t *testing.T) { looptest.Golden(t, "testdata/pods", Pods()) }

func TestFinishedPods(t *testing.T) {
	r := FinishedPods()
	r.Decide = func(v *view.View, _ kinds.Key, now time.Time) (loop.Decision, error) {
		return decideFinished(v, now, 1), nil
	}
	looptest.Golden(t, "testdata/finished", r)
}
