package nodeagent

import (
	"context"
	"time"

	"lockstep/nodeagent/pod"
)

const (
	// storagePeriod is how often pods are measured, the kubelet's figure.
	storagePeriod = 10 * time.Second
	// parallelMeasures bounds the pods that are measured at a time: it is work for one disk.
	parallelMeasures = 4
)

// limitStorage evicts pods that take more of the disk than they may, until ctx
// ends.
func (a *Agent) limitStorage(ctx context.Context) error {
	measures := pod.NewBeside(parallelMeasures)
	defer measures.Wait()
	t := time.NewTicker(a.storageEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		for _, p := range a.allPods() {
			p.LimitStorage(ctx, measures)
		}
	}
}
