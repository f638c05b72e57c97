package runtime

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"

	"lockstep/internal/sleep"
)

// GroupAnnotation makes containers of one value share a shim process.
const GroupAnnotation = "io.containerd.runc.v2.group"

// Prepare makes the writable layer of instance id over the image's chainID and
// returns what mounts it; a layer that is there already is kept. Once begun it
// is carried through: containerd may finish what nobody waits for any more, when
// the layer has been dropped already.
func (r *Runtime) Prepare(ctx context.Context, id, chainID string) ([]mount.Mount, error) {
	ctx, cancel := call(context.WithoutCancel(ctx), createTimeout)
	defer cancel()
	s := r.client.SnapshotService(r.opts.Snapshotter)
	// The garbage collector must not take it before its container is recorded.
	m, err := s.Prepare(ctx, id, chainID, r.kept())
	if errdefs.IsAlreadyExists(err) {
		m, err = s.Mounts(ctx, id)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot prepare layer of container %s: %w", short(id), err)
	}
	return m, nil
}

// viewPrefix tells views from containers' layers, whose names are hexadecimal.
const viewPrefix = "volume/"

// ViewID names the view of an image that is a volume of a pod.
func ViewID(podUID, volume string) string { return viewPrefix + podUID + "/" + volume }

// ViewOwner is the uid of the pod that a view was made for; false says that the layer is a container's.
func ViewOwner(id string) (podUID string, ok bool) {
	rest, ok := strings.CutPrefix(id, viewPrefix)
	podUID, _, _ = strings.Cut(rest, "/")
	return podUID, ok
}

// View makes a view of the image's chainID that nobody can write to and returns what mounts it. The view keeps the layers
// whatever becomes of the image's names. One that is there and shows another chain is replaced.
func (r *Runtime) View(ctx context.Context, id, chainID string) ([]mount.Mount, error) {
	ctx, cancel := call(context.WithoutCancel(ctx), createTimeout)
	defer cancel()
	s := r.client.SnapshotService(r.opts.Snapshotter)
	m, err := s.View(ctx, id, chainID, r.kept())
	if errdefs.IsAlreadyExists(err) {
		var have snapshots.Info
		if have, err = s.Stat(ctx, id); err == nil && have.Parent != chainID {
			if err = s.Remove(ctx, id); err == nil {
				m, err = s.View(ctx, id, chainID, r.kept())
			}
		} else if err == nil {
			m, err = s.Mounts(ctx, id)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot view layers of volume %s: %w", id, err)
	}
	return m, nil
}

// kept are the labels of a layer of this node that the garbage collector must not take.
func (r *Runtime) kept() snapshots.Opt {
	return snapshots.WithLabels(map[string]string{
		"containerd.io/gc.root": time.Now().UTC().Format(time.RFC3339),
		LabelNode:               r.opts.Node,
	})
}

// DropLayer removes a prepared layer that no container uses, or a view; an absent one is no error.
func (r *Runtime) DropLayer(ctx context.Context, id string) error {
	ctx, cancel := call(ctx, callTimeout)
	defer cancel()
	if err := r.client.SnapshotService(r.opts.Snapshotter).Remove(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("cannot remove layer of container %s: %w", short(id), err)
	}
	return nil
}

// Layers returns the IDs of this node's layers.
func (r *Runtime) Layers(ctx context.Context) ([]string, error) {
	ctx, cancel := call(ctx, callTimeout)
	defer cancel()
	var ids []string
	err := r.client.SnapshotService(r.opts.Snapshotter).Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		ids = append(ids, i.Name)
		return nil
	}, fmt.Sprintf("labels.%q==%s", LabelNode, r.opts.Node))
	if err != nil {
		return nil, fmt.Errorf("cannot list layers: %w", err)
	}
	return ids, nil
}

// Request is what a container is made from.
type Request struct {
	Container // ID, Identity, Sandbox, Hash, Crashes, Image, ImageID
	Spec      *specs.Spec
	Layer     []mount.Mount // from Prepare
	// Stdout and Stderr are FIFOs that somebody reads.
	Stdout, Stderr string
	// Stdin is a FIFO whose readers wait for as long as nobody writes to it; empty: input has ended before it begins.
	Stdin string
	// Runtime is the type of containerd's runtime that runs it, "io.containerd.runsc.v1". Empty: runc's.
	Runtime string
	// FirstID is the host's ID of user 0 in the container's user namespace, who is to have its output; 0: the host's own.
	FirstID uint32
	// Bare says that Layer is no snapshot of ours but a directory.
	Bare bool
}

// StartError says that the OCI runtime could not run a container as its record
// says. Its text is that of Kubernetes with containerd, which people search for.
type StartError struct {
	doing string
	err   error
}

// startFailure makes an error of containerd's a StartError where it is about
// the container: shims that do not start, closed connections and what is left
// of a try that was interrupted are not. Both come as mere text, which the shim
// begins with these words where it passes on what runc said.
func startFailure(doing string, err error) error {
	if err = native(err); strings.Contains(err.Error(), "OCI runtime create failed") ||
		strings.Contains(err.Error(), "OCI runtime start failed") {
		return &StartError{doing, err}
	}
	return fmt.Errorf("failed to %s: %w", doing, err)
}

// NewStartError is for machines that are not containerd's: doing is what containerd was asked for.
func NewStartError(doing string, err error) *StartError { return &StartError{doing, err} }

func (e *StartError) Error() string { return "failed to " + e.doing + ": " + e.err.Error() }
func (e *StartError) Unwrap() error { return e.err }

// Create makes the container with its first process ready, which has all its
// namespaces and does not run yet. An instance that is there already is kept;
// then the returned state says how far it is. A *StartError says that the
// process cannot be made, for example for want of its program; nothing but the
// layer is left then.
func (r *Runtime) Create(ctx context.Context, req Request) (Container, error) {
	ctx, cancel := call(ctx, createTimeout)
	defer cancel()
	if err := r.record(ctx, req); err != nil {
		if !errdefs.IsAlreadyExists(err) {
			return Container{}, err
		}
		c, err := r.Get(ctx, req.ID)
		if err == nil && (c.State == Created || c.State == Running) {
			return c, nil
		}
		if err := r.Remove(ctx, req.ID, false); err != nil {
			return Container{}, err
		}
		if err := r.record(ctx, req); err != nil {
			return Container{}, err
		}
	}
	pid, err := r.newTask(ctx, req)
	if err != nil {
		clean, stop := call(context.WithoutCancel(ctx), callTimeout)
		defer stop()
		return Container{}, errors.Join(err, r.Remove(clean, req.ID, false))
	}
	c := req.Container
	c.State, c.PID = Created, pid
	r.see(pid)
	return c, nil
}

func (r *Runtime) record(ctx context.Context, req Request) error {
	spec, err := typeurl.MarshalAny(req.Spec)
	if err != nil {
		return fmt.Errorf("cannot encode container %s: %w", short(req.ID), err)
	}
	c := containers.Container{
		ID: req.ID, Labels: req.labels(r.opts.Node), Image: req.Image, Spec: spec,
		Runtime: containers.RuntimeInfo{Name: cmp.Or(req.Runtime, runtimeName)},
	}
	if c.Runtime.Options, err = r.shimOptions(req); err != nil {
		return fmt.Errorf("cannot encode options of container %s: %w", short(req.ID), err)
	}
	if !req.Bare {
		c.Snapshotter, c.SnapshotKey = r.opts.Snapshotter, req.ID
	}
	if _, err = r.client.ContainerService().Create(ctx, c); err != nil {
		return fmt.Errorf("cannot create container %s: %w", short(req.ID), err)
	}
	return nil
}

// shimOptions are those of runc's shim; nil where its own do, and for other runtimes.
func (r *Runtime) shimOptions(req Request) (typeurl.Any, error) {
	if req.Runtime != "" && !strings.HasPrefix(req.Runtime, "io.containerd.runc.") || r.opts.Runc == "" && req.FirstID == 0 {
		return nil, nil
	}
	return typeurl.MarshalAny(&options.Options{BinaryName: r.opts.Runc, IoUid: req.FirstID, IoGid: req.FirstID})
}

// newTask has the shim create the process. A container that joins a shim may
// meet it while it closes because its last container has just been deleted;
// the next try then gets a new one.
func (r *Runtime) newTask(ctx context.Context, req Request) (uint32, error) {
	t := &tasks.CreateTaskRequest{ContainerID: req.ID, Terminal: req.Spec.Process.Terminal,
		Stdin: req.Stdin, Stdout: req.Stdout, Stderr: req.Stderr}
	shim, err := r.shimOptions(req)
	if err != nil {
		return 0, fmt.Errorf("cannot encode options of container %s: %w", short(req.ID), err)
	}
	if shim != nil {
		t.Options = typeurl.MarshalProto(shim)
	}
	if t.Terminal {
		t.Stderr = ""
	}
	for _, m := range req.Layer {
		t.Rootfs = append(t.Rootfs, &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	tries := 1
	if req.Spec.Annotations[GroupAnnotation] != "" {
		tries = 4
	}
	for try := range tries {
		if try > 0 && !sleep.For(ctx, time.Duration(try)*50*time.Millisecond) { // a shim closes within a few ms
			return 0, ctx.Err()
		}
		var res *tasks.CreateTaskResponse
		if res, err = r.client.TaskService().Create(ctx, t); err == nil {
			return res.Pid, nil
		}
	}
	return 0, startFailure("create containerd task", err)
}

// Start lets the container's first process run. A *StartError says that it
// cannot.
func (r *Runtime) Start(ctx context.Context, id string) error {
	ctx, cancel := call(ctx, createTimeout)
	defer cancel()
	if _, err := r.client.TaskService().Start(ctx, &tasks.StartRequest{ContainerID: id}); err != nil {
		return startFailure(fmt.Sprintf("start containerd task %q", id), err)
	}
	return nil
}

// Kill sends a signal to the first process, or to all; a container without a
// process is no error.
func (r *Runtime) Kill(ctx context.Context, id string, sig syscall.Signal, all bool) error {
	ctx, cancel := call(ctx, callTimeout)
	defer cancel()
	_, err := r.client.TaskService().Kill(ctx, &tasks.KillRequest{ContainerID: id, Signal: uint32(sig), All: all})
	if err = native(err); err != nil && !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) {
		return fmt.Errorf("cannot signal container %s: %w", short(id), err)
	}
	return nil
}

// Wait blocks until the first process has ended or ctx has. An absent one has
// ended.
func (r *Runtime) Wait(ctx context.Context, id string) error {
	ctx = namespaces.WithNamespace(ctx, Namespace)
	if _, err := r.client.TaskService().Wait(ctx, &tasks.WaitRequest{ContainerID: id}); err != nil {
		if err = native(err); !errdefs.IsNotFound(err) {
			return fmt.Errorf("cannot wait for container %s: %w", short(id), err)
		}
	}
	return nil
}

// Stop ends a container: sig, then SIGKILL after grace. It returns when the
// process has ended; an absent one is no error.
func (r *Runtime) Stop(ctx context.Context, id string, sig syscall.Signal, grace time.Duration) error {
	deadline := time.Now().Add(grace)
	if err := r.Kill(ctx, id, sig, false); err != nil {
		return err
	}
	if r.endsBefore(ctx, id, deadline) || ctx.Err() != nil {
		return ctx.Err()
	}
	if err := r.Kill(ctx, id, syscall.SIGKILL, true); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return r.Wait(ctx, id)
}

// endsBefore waits for a process until a deadline or the end of ctx. The
// deadline is told by our clock alone: containerd is asked without one, since
// its answer that time is over looks like any other failure. After a failure it
// is asked again: what is left of a grace period is left also when containerd
// is started anew.
func (r *Runtime) endsBefore(ctx context.Context, id string, deadline time.Time) bool {
	var waiting sync.WaitGroup
	defer waiting.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan struct{})
	waiting.Go(func() {
		for r.Wait(ctx, id) != nil {
			if !sleep.For(ctx, waitAgain) {
				return
			}
		}
		close(ended)
	})
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case <-ended:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// waitAgain is the pause before a process is waited for again.
const waitAgain = 100 * time.Millisecond

// Reap frees what containerd keeps of an ended process, its shim above all;
// the container and its layer stay. An absent process is no error.
func (r *Runtime) Reap(ctx context.Context, id string) error {
	ctx, cancel := call(ctx, callTimeout)
	defer cancel()
	_, err := r.client.TaskService().Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: id})
	if err = native(err); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("cannot reap container %s: %w", short(id), err)
	}
	return nil
}

// Remove kills what runs and removes the container; with layer also its
// writable layer. An absent one is no error.
func (r *Runtime) Remove(ctx context.Context, id string, layer bool) error {
	if err := r.Reap(ctx, id); err != nil {
		if err := r.Stop(ctx, id, syscall.SIGKILL, 0); err != nil {
			return err
		}
		if err := r.Reap(ctx, id); err != nil {
			return err
		}
	}
	c, cancel := call(ctx, callTimeout)
	defer cancel()
	if err := r.client.ContainerService().Delete(c, id); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("cannot remove container %s: %w", short(id), err)
	}
	if layer {
		return r.DropLayer(ctx, id)
	}
	return nil
}

// native gives gRPC errors the types that errdefs looks for.
func native(err error) error {
	if err == nil {
		return nil
	}
	return errgrpc.ToNative(err)
}

// Resume lets the processes of a paused container go on.
func (r *Runtime) Resume(ctx context.Context, id string) error {
	ctx, cancel := call(ctx, callTimeout)
	defer cancel()
	_, err := r.client.TaskService().Resume(ctx, &tasks.ResumeTaskRequest{ContainerID: id})
	if err = native(err); err != nil {
		return fmt.Errorf("cannot resume container %s: %w", short(id), err)
	}
	return nil
}

// Resize gives a running container other limits; of what they do not name it keeps what it has. A limit of memory below what it uses is
// refused: the kernel would end it.
func (r *Runtime) Resize(ctx context.Context, id string, limits *specs.LinuxResources) error {
	ctx, cancel := call(ctx, createTimeout)
	defer cancel()
	if limits.Memory != nil {
		memory := *limits.Memory
		memory.CheckBeforeUpdate = new(true)
		changed := *limits
		changed.Memory, limits = &memory, &changed
	}
	data, err := typeurl.MarshalAny(limits)
	if err == nil {
		_, err = r.client.TaskService().Update(ctx, &tasks.UpdateTaskRequest{ContainerID: id, Resources: typeurl.MarshalProto(data)})
	}
	if err = native(err); err != nil {
		return fmt.Errorf("cannot limit container %s: %w", short(id), err)
	}
	return nil
}
