package store_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	clocktesting "k8s.io/utils/clock/testing"

	"lockstep/store"
)

// TestCorrelatorIsKubernetes gives random events to Kubernetes' correlator and to ours: the same are written, with the same names,
// counts and texts.
func TestCorrelatorIsKubernetes(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 0))
		clock := clocktesting.NewFakePassiveClock(time.Unix(1_700_000_000, 0))
		theirs := record.NewEventCorrelatorWithOptions(record.CorrelatorOptions{Clock: clock})
		ours := store.NewCorrelator(clock.Now)
		written := 0
		for i := range 2000 {
			if r.IntN(10) == 0 {
				clock.SetTime(clock.Now().Add(time.Duration(r.IntN(100)) * time.Second))
			}
			pod := &corev1.Pod{}
			pod.Namespace, pod.Name, pod.UID = "shop", fmt.Sprint("web-", r.IntN(3)), types.UID(fmt.Sprint(r.IntN(2)))
			// Of a reason either few texts or never one twice: between them Kubernetes' own draws lots.
			reason, message := "Repeated", fmt.Sprint(r.IntN(5))
			if r.IntN(2) == 0 {
				reason, message = "Similar", fmt.Sprint(i)
			}
			e := store.NewEvent("kubelet", pod, []string{"Normal", "Warning"}[r.IntN(2)], reason, message, clock.Now())
			got, want := ours.Correlate(e.DeepCopy()), kubernetes(t, theirs, e)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("seed %d, event %d: Kubernetes' -, ours +:\n%s", seed, i, diff)
			}
			if got != nil {
				written++
			}
		}
		if written < 100 {
			t.Errorf("seed %d: %d of 2000 events were written: too few to tell", seed, written)
		}
	}
}

// kubernetes is what Kubernetes' client would have in the API after an event; nil where it drops it.
func kubernetes(t *testing.T, c *record.EventCorrelator, e *corev1.Event) *corev1.Event {
	t.Helper()
	result, err := c.EventCorrelate(e)
	if err != nil {
		t.Fatal(err)
	}
	if result.Skip {
		return nil
	}
	c.UpdateState(result.Event)
	return result.Event
}
