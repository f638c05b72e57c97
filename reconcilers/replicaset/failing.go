package replicaset

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const (
	// failWindow is how long a pod that has failed counts.
	failWindow = 10 * time.Minute
	// freeFailures is how many may fail within that beside two for each replica, as when a node runs short and then another: they are
	// replaced at once. What goes beyond it are pods that fail wherever they come, as those do that their node refuses. Each would be
	// followed by the next as fast as it can be stored, for ever.
	freeFailures = 10
)

// held says how many pods more may be made of those that a set wants, for those of it that have failed lately; the error is why not
// all, and at when there may be more.
func held(ended []*corev1.Pod, replicas, wanted int, now time.Time) (room int, at time.Time, why error) {
	failed := 0
	for _, p := range ended {
		until := p.CreationTimestamp.Add(failWindow)
		if p.Status.Phase != corev1.PodFailed || !until.After(now) {
			continue
		}
		failed++
		if at.IsZero() || until.Before(at) {
			at = until
		}
	}
	most := 2*replicas + freeFailures
	if room = max(0, most-failed); room >= wanted {
		return wanted, time.Time{}, nil
	}
	return room, at, fmt.Errorf("%d pods have failed within %v: others are made as these are longer ago", most, failWindow)
}
