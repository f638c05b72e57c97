package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"lockstep/nodeagent/cgroup"
	"lockstep/nodeagent/process"
	"lockstep/nodeagent/runtime"
)

// containerOfCgroup is the ID in the path of a container's cgroup, or of one
// below it, relative to the node's: pod<uid>/<id>/….
func containerOfCgroup(below string) string {
	if parts := strings.Split(below, "/"); len(parts) > 1 {
		return parts[1]
	}
	return ""
}

// endForgotten ends what runs of this node's containers though containerd has
// forgotten it, as after it was killed while a shim was too busy to answer: the
// processes of containers that are not alive by its word, and their shims. What
// is of no container goes when alive says so of the empty ID. It returns the
// containers' IDs.
func endForgotten(ctx context.Context, o Options, alive func(id string) bool) ([]string, error) {
	path := nodeCgroup(o.NodeName)
	var shims []int
	inside := cgroup.Processes(path)
	for _, pid := range shimsAt(o.containerdSocket()) {
		children, forgotten := 0, false
		for child, below := range inside {
			if process.Parent(child) == pid {
				children++
				forgotten = forgotten || !alive(containerOfCgroup(below))
			}
		}
		// One without a process may still have to tell how it ended, and is ours
		// for certain only if containerd is.
		if forgotten || children == 0 && !alive("") && o.Containerd == Managed {
			shims = append(shims, pid)
		}
	}
	killed, err := cgroup.Kill(ctx, path, func(below string) bool { return !alive(containerOfCgroup(below)) })
	wait, cancel := context.WithTimeout(ctx, cgroup.EndTimeout)
	defer cancel()
	for _, pid := range shims {
		if process.Kill(pid, func() bool { return slices.Contains(shimsAt(o.containerdSocket()), pid) && !serves(pid, path, alive) }) {
			err = errors.Join(err, process.Wait(wait, pid)) // its socket answers until then
		}
	}
	var ids []string
	for _, below := range killed {
		if id := containerOfCgroup(below); id != "" && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids, err
}

// serves says whether a shim still has a container that is alive.
func serves(shim int, path string, alive func(id string) bool) bool {
	for pid, below := range cgroup.Processes(path) {
		if process.Parent(pid) == shim && process.Alive(pid) && alive(containerOfCgroup(below)) {
			return true
		}
	}
	return false
}

// shimsAt are the shims that report to a containerd for our namespace.
func shimsAt(socket string) []int {
	var shims []int
	for _, pid := range process.All() {
		args := process.Arguments(pid)
		if len(args) > 0 && strings.HasPrefix(filepath.Base(args[0]), "containerd-shim-") &&
			flagOf(args, "namespace") == runtime.Namespace && flagOf(args, "address") == socket && seesSame(pid, filepath.Dir(socket)) {
			shims = append(shims, pid)
		}
	}
	return shims
}

// flagOf is the value of a flag in a command line.
func flagOf(args []string, name string) string {
	for i, a := range args[:max(len(args)-1, 0)] {
		if strings.TrimLeft(a, "-") == name {
			return args[i+1]
		}
	}
	return ""
}

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
	ids, err := endForgotten(ctx, a.opts, func(id string) bool {
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
		a.drift("RemovedForgottenContainer", fmt.Sprintf("Ended container %s, which containerd had forgotten", id))
	}
	for _, p := range a.allPods() {
		sockets = append(sockets, p.ShimNames()...)
	}
	if err := errors.Join(a.rt.DropSockets(sockets, runtime.Binding), a.rt.DropRemains(ctx, ids)); err != nil {
		a.log.Warn("cannot remove what shims that were killed left", "error", err)
	}
}

// endRemains ends what runs of a container that containerd says it does not have,
// and removes what the OCI runtime knows of it: its successor must not meet it,
// nor must the next try to start it, where the shim was killed during the first.
func (a *Agent) endRemains(ctx context.Context, path, id string) error {
	if len(cgroup.Processes(path)) > 0 {
		a.log.Warn("ending container that containerd has forgotten", "container", id)
		if _, err := endForgotten(ctx, a.opts, func(other string) bool { return other != id }); err != nil {
			return err
		}
	}
	return a.rt.DropRemains(ctx, []string{id})
}
