package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"lockstep/kinds/drift"
	"lockstep/nodeagent/runtime"
)

// sweepForgotten ends what containerd has forgotten, and removes the sockets of
// shims that were killed. It must run while no step is in flight.
func (a *Agent) sweepForgotten(ctx context.Context) {
	list, err := a.rt.List(ctx)
	if err != nil {
		return // it is told where the list is needed
	}
	alive, sockets := map[string]bool{"": true}, []string{}
	for _, c := range list {
		if c.State != runtime.Absent {
			alive[c.ID] = true
		}
		sockets = append(sockets, c.ID, c.PodUID)
	}
	ids, err := a.opts.remains().End(ctx, func(id string) bool {
		if _, known := alive[id]; !known {
			c, err := a.rt.Get(ctx, id) // a list leaves out what does not answer
			alive[id] = err == nil && c.State != runtime.Absent || err != nil && !errdefs.IsNotFound(err)
		}
		return alive[id]
	})
	if err != nil {
		a.log.Warn("cannot end all that containerd has forgotten", "error", err)
	}
	for _, id := range ids {
		a.log.Warn("ended container that containerd had forgotten", "container", id)
		a.differs(drift.Finding{ID: "forgotten/" + id, Kind: drift.Forgotten, Place: id, What: "it ran, and containerd had forgotten it",
			Repaired: time.Now(), How: "ended"})
		a.drift("RemovedForgottenContainer", fmt.Sprintf("Ended container %s, which containerd had forgotten", id))
	}
	for _, p := range a.allPods() {
		sockets = append(sockets, p.ShimNames()...)
	}
	if err := errors.Join(a.rt.DropSockets(sockets, runtime.Binding), a.rt.DropRemains(ctx, ids)); err != nil {
		a.log.Warn("cannot remove what shims that were killed left", "error", err)
	}
}
