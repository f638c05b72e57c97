// Package machine is the real one that pods run on: containerd, CNI plugins and the kernel.
package machine

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"

	"lockstep/nodeagent/cgroup"
	"lockstep/nodeagent/images"
	"lockstep/nodeagent/network"
	"lockstep/nodeagent/pod"
	"lockstep/nodeagent/register"
	"lockstep/nodeagent/runtime"
)

// Options are the parts of a machine; all of them are required.
type Options struct {
	Runtime *runtime.Runtime
	Remains Remains
	Network *network.Network
	Volumes pod.Volumes
	Logs    pod.Logs
	Probes  pod.Probes
	Events  pod.Events
	Devices pod.Devices

	Images *images.Manager
	// Imported is closed when nothing more is imported; images are waited for until then. Added is told of each image that
	// no pod has had before.
	Imported <-chan struct{}
	Added    func()

	Log *slog.Logger
}

// New returns the machine; it starts nothing.
func New(o Options) pod.Machine {
	return pod.Machine{
		Containers: containers{o.Runtime, o.Remains, o.Log}, Sandboxes: sandboxes{o.Network}, Volumes: o.Volumes, Logs: o.Logs,
		Probes: o.Probes, Events: o.Events, Devices: o.Devices,
		Images: &knownImages{manager: o.Images, imported: o.Imported, added: o.Added, known: map[string]*knownImage{}},
	}
}

// containers are containerd's, and what runs of those that it has forgotten.
type containers struct {
	*runtime.Runtime
	remains Remains
	log     *slog.Logger
}

// EndRemains implements pod.Containers. What the OCI runtime knows of the container goes, too: its successor must not meet
// it, nor must the next try to start it, where the shim was killed during the first.
func (c containers) EndRemains(ctx context.Context, path, id string) error {
	if len(cgroup.Processes(path)) > 0 {
		c.log.Warn("ending container that containerd has forgotten", "container", id)
		if _, err := c.remains.End(ctx, func(other string) bool { return other != id }); err != nil {
			return err
		}
	}
	return c.DropRemains(ctx, []string{id})
}

// Cgroup is the parent of all pods' cgroups of a node, whose name is in it, so that several nodes fit on one machine.
func Cgroup(node string) string { return filepath.Join("/lockstep", node) }

// SetTiers makes cgroups that pods' own are in, by their names below the node's, or sets their limits anew.
func SetTiers(node string, tiers map[string]*specs.LinuxResources) error {
	var errs []error
	for name, limits := range tiers {
		errs = append(errs, cgroup.Make(filepath.Join(Cgroup(node), name), limits))
	}
	return errors.Join(errs...)
}

// ownPids is the share of the machine's process numbers that pods together cannot take, one in so many: less than that at
// which the node says PIDPressure, and enough to end pods with.
const ownPids = 25

// Bound makes the parent of all pods' cgroups, which bounds what they take together.
func Bound(node string) error {
	most, err := register.MostPIDs()
	if err != nil {
		return err
	}
	limit := most - most/ownPids
	return cgroup.Make(Cgroup(node), &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}})
}
