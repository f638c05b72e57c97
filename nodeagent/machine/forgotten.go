package machine

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"

	"lockstep/nodeagent/cgroup"
	"lockstep/nodeagent/process"
	"lockstep/nodeagent/runtime"
)

// containerOfCgroup is the ID in the path of a container's cgroup, or of one
// below it, relative to the node's: pod<uid>/<id>/…, or tier/pod<uid>/<id>/….
func containerOfCgroup(below string) string {
	parts := strings.Split(below, "/")
	for i, part := range parts[:len(parts)-1] {
		if strings.HasPrefix(part, "pod") {
			return parts[i+1]
		}
	}
	return ""
}

// Remains are what may run of a node's containers though its containerd has forgotten it.
type Remains struct {
	Node string
	// Socket is containerd's, and Managed says that containerd is the node's own.
	Socket  string
	Managed bool
}

// End ends what runs of the node's containers though containerd has forgotten it, as after it was killed while a shim was
// too busy to answer: the processes of containers that are not alive by its word, and their shims. What is of no container
// goes when alive says so of the empty ID. It returns the containers' IDs.
func (r Remains) End(ctx context.Context, alive func(id string) bool) ([]string, error) {
	path := Cgroup(r.Node)
	var shims []int
	inside := cgroup.Processes(path)
	for _, pid := range shimsAt(r.Socket) {
		children, forgotten := 0, false
		for child, below := range inside {
			if process.Parent(child) == pid {
				children++
				forgotten = forgotten || !alive(containerOfCgroup(below))
			}
		}
		// One without a process may still have to tell how it ended, and is ours
		// for certain only if containerd is.
		if forgotten || children == 0 && !alive("") && r.Managed {
			shims = append(shims, pid)
		}
	}
	killed, err := cgroup.Kill(ctx, path, func(below string) bool { return !alive(containerOfCgroup(below)) })
	wait, cancel := context.WithTimeout(ctx, cgroup.EndTimeout)
	defer cancel()
	for _, pid := range shims {
		if process.Kill(pid, func() bool { return slices.Contains(shimsAt(r.Socket), pid) && !serves(pid, path, alive) }) {
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
		if runtime.IsShim(args) && flagOf(args, "namespace") == runtime.Namespace && flagOf(args, "address") == socket &&
			process.SeesSame(pid, filepath.Dir(socket)) {
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
