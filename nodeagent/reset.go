package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/nodeagent/beneath"
	"lockstep/nodeagent/cgroup"
	"lockstep/nodeagent/csi"
	"lockstep/nodeagent/dns/names"
	"lockstep/nodeagent/logind"
	"lockstep/nodeagent/logs/keeper"
	"lockstep/nodeagent/machine"
	"lockstep/nodeagent/network"
	"lockstep/nodeagent/pod"
	"lockstep/nodeagent/process"
	"lockstep/nodeagent/runtime"
	"lockstep/nodeagent/volumes"
	"lockstep/proxy"
)

// Reset removes every trace of this node from the machine: containers, layers
// and images of our containerd namespace, the network of its pods, mounts,
// cgroups, the agent's companions, service rules, links, routes and files. Options that
// are not stated are those the node was last run with; it is an error if it
// runs. What is absent is fine, so it may be called twice; it goes on past
// errors and returns them joined.
func Reset(ctx context.Context, opts Options) error {
	opts, err := opts.recall()
	if err != nil {
		return err
	}
	if opts, err = opts.withDefaults(); err != nil {
		return err
	}
	if err := opts.refuseOthers(); err != nil {
		return err
	}
	if _, err := os.Stat(opts.agentDir()); err == nil {
		held, err := opts.hold()
		if err != nil {
			return err
		}
		defer held.Close()
	}
	var errs []error
	note := func(err error) { errs = append(errs, err) }
	// Without containerd nothing is touched: what is left then is a node that can be run, or reset, again.
	if err := resetContainers(ctx, opts); err != nil {
		return err
	}
	note(resetPods(ctx, opts))
	note(stopCompanions(ctx, opts))
	note(proxy.Cleanup(ctx))
	note(network.SetRoutes(nil))
	note(network.RemoveIsolated())
	note(resetForwarding(opts))
	note(logind.Forget(opts.logindConf))
	note(cgroup.Remove(machine.Cgroup(opts.NodeName)))
	note(cgroup.Remove(keeperCgroup(opts.NodeName)))
	note(cgroup.Remove(namesCgroup(opts.NodeName)))
	note(removeEmptyParents(filepath.Dir(machine.Cgroup(opts.NodeName)), filepath.Dir(keeperCgroup(opts.NodeName)),
		filepath.Dir(namesCgroup(opts.NodeName))))
	note(stopContainerd(ctx, opts))
	note(os.RemoveAll(opts.managedDir()))
	note(removeRuntimeDirs(opts))
	note(unmountBelow(opts.RunDir))
	note(opts.directories().Unlimit()) // while it is known which they are
	for _, dir := range []string{opts.agentDir(), opts.RunDir} {
		note(os.RemoveAll(dir))
	}
	note(csi.Remove(opts.KubeletDir))
	for _, dir := range []string{opts.volumesDir(), opts.localPathDir()} {
		note(removeAround(ctx, dir))
	}
	if opts.LogDir != "/var/log/pods" {
		note(os.RemoveAll(opts.LogDir))
	} else {
		note(removeDirIfEmpty(opts.LogDir))
	}
	note(removeDirIfEmpty(opts.DataDir))
	return errors.Join(errs...)
}

// resetContainers empties our containerd namespace of what is this node's. A
// containerd of our own is started for that if it does not run.
func resetContainers(ctx context.Context, o Options) error {
	needed := filepath.Join(o.agentDir(), whereaboutsFile) // absent: the agent never reached containerd
	if o.Containerd == Managed {
		needed = o.managedDir()
	}
	if _, err := os.Stat(needed); errors.Is(err, os.ErrNotExist) && !answers(o.containerdSocket()) {
		return nil
	}
	if o.Containerd == Managed {
		if _, err := startContainerd(ctx, o); err != nil {
			return err
		}
	}
	if !answers(o.containerdSocket()) {
		return fmt.Errorf("cannot remove containers: containerd does not answer at %s; start it first, for this once", o.containerdSocket())
	}
	rt, err := runtime.Open(runtime.Options{
		Address: o.containerdSocket(), Node: o.NodeName, Snapshotter: o.Snapshotter, RunDir: o.RunDir,
		State: o.containerdState(), Log: o.Log,
	})
	if err != nil {
		return err
	}
	defer rt.Close()
	list, err := rt.List(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range list {
		errs = append(errs, rt.Remove(ctx, c.ID, true))
		if c.PodUID != "" {
			dir := filepath.Join(o.LogDir, fmt.Sprintf("%s_%s_%s", c.PodNamespace, c.PodName, c.PodUID))
			errs = append(errs, beneath.RemoveAll(ctx, dir))
		}
	}
	// What containerd does not know is not in the list, and would run on.
	forgotten, err := o.remains().End(ctx, func(string) bool { return false })
	errs = append(errs, err, rt.DropRemains(ctx, append(shimNames(o, list), forgotten...)))
	layers, err := rt.Layers(ctx)
	errs = append(errs, err)
	for _, id := range layers {
		errs = append(errs, rt.DropLayer(ctx, id))
	}
	return errors.Join(append(errs, rt.Clear(ctx))...)
}

// shimNames are what shims of the node were named by, as far as it is known.
func shimNames(o Options, list []runtime.Container) []string {
	var names []string
	for _, c := range list {
		names = append(names, c.ID, c.PodUID)
	}
	r := pod.Records{Dir: filepath.Join(o.agentDir(), "pods")}
	dirs, _ := os.ReadDir(r.Dir)
	for _, d := range dirs {
		names = append(names, d.Name())
		names = append(names, r.Instances(types.UID(d.Name()))...)
	}
	return names
}

// resetPods takes all pods out of the network and removes their sandboxes and volumes.
func resetPods(ctx context.Context, o Options) error {
	n := network.Open(network.Options{
		Node:     o.NodeName,
		StateDir: filepath.Join(o.RunDir, "cni"),
		BinDirs:  o.CNIBinDirs,
		ConfDir:  o.CNIConfDir,
	})
	var errs []error
	dirs, _ := filepath.Glob(filepath.Join(o.RunDir, "pods", "*"))
	for _, dir := range dirs {
		p := network.Pod{UID: filepath.Base(dir)}
		errs = append(errs, n.Remove(ctx, p, network.NetPath(filepath.Join(dir, "ns"))), machine.Unpin(dir))
	}
	errs = append(errs, n.Sweep(ctx, func(string) bool { return false }))
	if _, err := os.Stat(o.volumesDir()); err == nil {
		v, err := volumes.New(volumes.Options{Dir: o.volumesDir()})
		if err == nil {
			err = v.Sweep(ctx, func(types.UID) bool { return false })
		}
		errs = append(errs, err)
	}
	kept, err := pod.Records{Dir: filepath.Join(o.agentDir(), "pods")}.LoadPods()
	errs = append(errs, err)
	for _, p := range kept {
		errs = append(errs, beneath.RemoveAll(ctx, filepath.Join(o.LogDir, fmt.Sprintf("%s_%s_%s", p.Namespace, p.Name, p.UID))))
	}
	return errors.Join(errs...)
}

func resetForwarding(o Options) error {
	data, err := os.ReadFile(filepath.Join(o.agentDir(), forwardingFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return network.RestoreForwarding(strings.TrimSpace(string(data)))
}

// unmountBelow detaches all mounts below a directory, the innermost first.
func unmountBelow(dir string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range slices.Backward(mounts) {
		if m.Mountpoint == dir {
			continue
		}
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("cannot unmount %s: %w", m.Mountpoint, err))
		}
	}
	return errors.Join(errs...)
}

// removeAround removes a directory with all below it but what is mounted there, which is somebody's data: that is unmounted and, where it
// cannot be, left, with an error. Links may lead to the directory.
func removeAround(ctx context.Context, dir string) error {
	real, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := unmountBelow(real); err != nil {
		return err
	}
	top, err := beneath.Open(real)
	if err != nil {
		return err
	}
	defer top.Close()
	for more := true; more; {
		var names []string
		if names, more, err = top.Names(1 << 10); err != nil {
			return err
		}
		for _, name := range names {
			if err := top.RemoveAll(ctx, name); err != nil {
				return err
			}
		}
	}
	return os.Remove(dir)
}

// removeEmptyParents removes the cgroups that held those of several nodes, if
// ours was the last.
func removeEmptyParents(paths ...string) error {
	for _, root := range cgroup.Hierarchies() {
		for _, p := range paths {
			_ = syscall.Rmdir(filepath.Join(root, p)) // others may be in it, or it is absent
		}
	}
	return nil
}

// removeRuntimeDirs removes what shims and runc made for us in directories that
// no configuration moves. The system's containerd keeps those that are its own.
func removeRuntimeDirs(o Options) error {
	errs := []error{removeDirIfEmpty(filepath.Join(runtime.StateDir, "runc", runtime.Namespace))}
	if o.Containerd == Managed {
		for _, dir := range []string{"runc", "s", ""} {
			errs = append(errs, removeDirIfEmpty(filepath.Join(runtime.StateDir, dir)))
		}
	}
	return errors.Join(errs...)
}

func removeDirIfEmpty(dir string) error {
	err := syscall.Rmdir(dir)
	if err != nil && !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.EBUSY) {
		return fmt.Errorf("cannot remove %s: %w", dir, err)
	}
	return nil
}

// stopCompanions ends the log keeper and the names process of the run
// directory, which nothing else would end, and waits until they are gone.
func stopCompanions(ctx context.Context, o Options) error {
	var errs []error
	for _, pid := range companions(o.RunDir, keeper.Command, names.Command) {
		err := syscall.Kill(pid, syscall.SIGKILL)
		if err == nil {
			err = process.Wait(ctx, pid)
		}
		if err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, fmt.Errorf("cannot end process %d: %w", pid, err))
		}
	}
	return errors.Join(errs...)
}

// companions finds those companions of a run directory by their command lines. In
// other mount namespaces the same path may be another node's directory.
func companions(runDir string, commands ...string) []int {
	var pids []int
	for _, pid := range process.All() {
		args := process.Arguments(pid)
		if len(args) >= 3 && slices.Contains(commands, args[1]) && args[2] == runDir && process.SeesSame(pid, runDir) {
			pids = append(pids, pid)
		}
	}
	return pids
}
