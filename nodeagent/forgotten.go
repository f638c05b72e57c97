package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/nodeagent/process"
	"lockstep/nodeagent/runtime"
)

// endTimeout bounds how long killed processes may take to go: one that waits
// for a dead disk stays, and is told.
const endTimeout = 10 * time.Second

// runtimeState is where shims and runc keep what no configuration moves.
const runtimeState = "/run/containerd"

// processesIn are the processes of a cgroup and of those below it, by the path
// of theirs relative to it.
func processesIn(path string) map[int]string {
	out := map[int]string{}
	for _, root := range hierarchies() {
		top := filepath.Join(root, path)
		_ = filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return nil // a cgroup that went away meanwhile, or a file
			}
			data, _ := os.ReadFile(filepath.Join(p, "cgroup.procs"))
			for line := range strings.Lines(string(data)) {
				if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && pid > 0 {
					out[pid], _ = filepath.Rel(top, p)
				}
			}
			return nil
		})
	}
	return out
}

// killCgroup kills the processes of a cgroup that are wanted dead, by the path of
// theirs relative to it, until there are none. It returns whose they were.
func killCgroup(ctx context.Context, path string, wanted func(below string) bool) (killed map[int]string, err error) {
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	killed = map[int]string{}
	for {
		left := 0
		for pid, below := range processesIn(path) {
			if !wanted(below) || !process.Alive(pid) {
				continue
			}
			left++
			if process.Kill(pid, func() bool { return within(pid, path) }) {
				killed[pid] = below
			}
		}
		if left == 0 {
			return killed, nil
		}
		select {
		case <-ctx.Done():
			return killed, fmt.Errorf("cannot end %d processes in cgroup %s: %w", left, path, ctx.Err())
		case <-time.After(10 * time.Millisecond): // a killed process needs a moment to go
		}
	}
}

// within says whether a process is in a cgroup or below it.
func within(pid int, path string) bool {
	data, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	for line := range strings.Lines(string(data)) {
		_, own, _ := strings.Cut(strings.TrimSpace(line), ":")
		if _, own, _ = strings.Cut(own, ":"); own == path || strings.HasPrefix(own, path+"/") {
			return true
		}
	}
	return false
}

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
	inside := processesIn(path)
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
	killed, err := killCgroup(ctx, path, func(below string) bool { return !alive(containerOfCgroup(below)) })
	wait, cancel := context.WithTimeout(ctx, endTimeout)
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
			err = errors.Join(err, removeRuntimeState(o, id))
		}
	}
	slices.Sort(ids)
	return ids, err
}

// serves says whether a shim still has a container that is alive.
func serves(shim int, path string, alive func(id string) bool) bool {
	for pid, below := range processesIn(path) {
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

// removeRuntimeState removes what runc and the shim kept of a container that
// containerd has forgotten, whose instance would be in the way of the next.
func removeRuntimeState(o Options, id string) error {
	state := runtimeState
	if o.Containerd == Managed {
		state = filepath.Dir(managedConfigFile(o))
	}
	bundle := filepath.Join(state, "io.containerd.runtime.v2.task", runtime.Namespace, id)
	errs := []error{unmountBelow(bundle)}
	for _, dir := range []string{bundle, filepath.Join(runtimeState, "runc", runtime.Namespace, id)} {
		if err := os.RemoveAll(dir); err != nil && !errors.Is(err, syscall.EBUSY) {
			errs = append(errs, fmt.Errorf("cannot remove what is left of container %s: %w", id, err))
		}
	}
	return errors.Join(errs...)
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
		sockets = append(sockets, p.shimNames()...)
	}
	if err := a.rt.DropSockets(append(sockets, ids...), runtime.Binding); err != nil {
		a.log.Warn("cannot remove sockets of shims that were killed", "error", err)
	}
}

// shimNames are what shims of the pod are named by: containers that have one to
// themselves, and the pod that shares one.
func (p *pod) shimNames() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	names := []string{string(p.uid)}
	for id := range p.instances {
		names = append(names, id)
	}
	return names
}

// endRemains ends what runs of a container that containerd says it does not have,
// and removes what the OCI runtime knows of it: its successor must not meet it,
// nor must the next try to start it, where the shim was killed during the first.
func (a *Agent) endRemains(ctx context.Context, uid types.UID, id string) error {
	if len(processesIn(filepath.Join(a.podCgroup(uid), id))) == 0 {
		return removeRuntimeState(a.opts, id)
	}
	a.log.Warn("ending container that containerd has forgotten", "container", id)
	_, err := endForgotten(ctx, a.opts, func(other string) bool { return other != id })
	return err
}
