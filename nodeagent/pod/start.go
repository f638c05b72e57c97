package pod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"lockstep/nodeagent/cgroup"
	"lockstep/nodeagent/logs"
	"lockstep/nodeagent/network"
	"lockstep/nodeagent/pods"
	"lockstep/nodeagent/runtime"
	"lockstep/nodeagent/spec"
	"lockstep/nodeagent/userns"
	"lockstep/nodeagent/volumes"
)

// prepared is an instance that lacks only its pod's sandbox to be started.
type prepared struct {
	attempt int
	id      string
	image   Image
	users   spec.Users
	layer   []mount.Mount
	stream  logs.Stream
	volumes map[string]volumes.Mounted // those that are images
}

// identity is the instance of a container of the pod.
func (p *Pod) identity(name string, attempt int) runtime.Identity {
	o := p.Object()
	return runtime.Identity{PodUID: string(p.uid), PodNamespace: o.Namespace, PodName: o.Name, Name: name, Attempt: attempt}
}

// prepare gets the image, the writable layer and the log's pipes.
func (p *Pod) prepare(ctx context.Context, step pods.Step) error {
	object := p.Object()
	c := pods.ContainerOf(object, step.Container)
	id := p.identity(c.Name, step.Attempt).ID()
	img, err := p.ensureImage(ctx, c)
	if err != nil {
		return err
	}
	shown, err := p.imageVolumes(ctx, object, c)
	if err != nil {
		return err
	}
	done, err := p.node.preparing.Take(ctx)
	if err != nil {
		return err
	}
	defer done()
	p.change(func() { p.begun[id], p.traces = true, true })
	layer, err := p.node.Containers.Prepare(ctx, id, img.ChainID)
	if err != nil {
		return &stepError{"CreateContainerError", err}
	}
	users, err := p.node.Images.Users(ctx, img, layer)
	if err != nil {
		return &stepError{"CreateContainerError", err}
	}
	stdout, stderr := logs.FIFOs(p.node.RunDir, id)
	stream := logs.Stream{ID: id, Path: logs.Path(p.LogDir(), c.Name, step.Attempt), Stdout: stdout, Stderr: stderr}
	if err := p.node.Logs.Open(ctx, stream); err != nil {
		return &stepError{"CreateContainerError", err}
	}
	p.change(func() {
		p.prepared[c.Name] = &prepared{attempt: step.Attempt, id: id, image: img, users: users, layer: layer, stream: stream,
			volumes: shown}
	})
	return nil
}

// LogDir has the pod's logs.
func (p *Pod) LogDir() string {
	o := p.Object()
	return logs.Dir(p.node.LogDir, o.Namespace, o.Name, o.UID)
}

// start creates the container and lets it run, its postStart hook included.
func (p *Pod) start(ctx context.Context, step pods.Step) (err error) {
	p.mu.Lock()
	object, pr, sb, vols := p.wanted.Pod, p.prepared[step.Container], p.sandbox, p.volumes
	p.mu.Unlock()
	c := pods.ContainerOf(object, step.Container)
	if pr == nil || pr.attempt != step.Attempt {
		return fmt.Errorf("cannot start container %s: it is not prepared", step.Container)
	}
	in, err := p.input(ctx, object, c, pr, sb, vols)
	defer func() { err = redact(err, in.Sources.Secrets) }()
	if err != nil {
		return configError(err)
	}
	if in.Mounts, err = p.mounts(ctx, in, pr.volumes, vols); err != nil {
		return configError(err)
	}
	if in.Devices, err = devicesOf(c, vols); err != nil {
		return configError(err)
	}
	if sb.FirstID != 0 {
		if pr.layer, err = p.node.Sandboxes.Shift(p.dir(), pr.layer, sb.FirstID); err != nil {
			return &stepError{spec.ReasonCreate, err}
		}
	}
	oci, err := spec.Build(in)
	if err != nil {
		return configError(err)
	}
	if err := p.node.Devices.Inject(oci, p.Devices()[c.Name]); err != nil {
		return &stepError{spec.ReasonCreate, err}
	}
	stdin, err := p.stdin(c, pr.id)
	if err != nil {
		return &stepError{spec.ReasonCreate, err}
	}
	group := p.shimGroup(object, c)
	if group != "" {
		oci.Annotations = map[string]string{runtime.GroupAnnotation: group}
	}
	done, err := p.turn(ctx, group != "")
	if err != nil {
		return err
	}
	inst := &instance{
		Container: pods.Container{
			ID: pr.id, Name: c.Name, Attempt: step.Attempt, Sandbox: sb.ID, Hash: pods.Hash(c), Crashes: step.Crashes,
			Round: step.Round, State: pods.Created, Image: c.Image, ImageID: pr.image.ID, User: userOf(oci),
			Resources: c.Resources.DeepCopy(), PodResources: object.Spec.Resources.DeepCopy(),
			Hooked: c.Lifecycle == nil || c.Lifecycle.PostStart == nil,
		},
		StopSignal: stopSignal(c, pr.image), changed: time.Now(),
	}
	interrupted := p.node.Containers.Interruption()
	err = redact(p.launch(ctx, inst, runtime.Request{
		Container: runtime.Container{ID: pr.id, Identity: p.identity(c.Name, step.Attempt), Sandbox: sb.ID, Hash: inst.Hash,
			Crashes: step.Crashes, Image: pr.image.Name, ImageID: pr.image.ID},
		Spec: oci, Layer: pr.layer, Stdin: stdin, Stdout: pr.stream.Stdout, Stderr: pr.stream.Stderr,
		Runtime: sb.Runtime, FirstID: sb.FirstID,
	}), in.Sources.Secrets)
	done()
	if failed := (*runtime.StartError)(nil); errors.As(err, &failed) && !interrupted(context.WithoutCancel(ctx)) {
		return p.unstarted(context.WithoutCancel(ctx), inst, err)
	}
	if err != nil {
		left, cancel := context.WithTimeout(context.WithoutCancel(ctx), cgroup.EndTimeout)
		defer cancel()
		if c, getErr := p.node.Containers.Get(left, pr.id); errdefs.IsNotFound(getErr) || getErr == nil && c.State == runtime.Absent {
			err = errors.Join(err, p.node.Containers.EndRemains(left, filepath.Join(p.cgroup(), pr.id), pr.id))
		}
		err = errors.Join(err, p.node.Records.forget(p.uid, c.Name, step.Attempt))
		p.change(func() {
			delete(p.instances, pr.id)
			delete(p.prepared, c.Name)
		})
		p.node.Owner.Unclaim(pr.id)
		return err
	}
	p.ContainerEvent(c.Name, corev1.EventTypeNormal, "Created", "Container created")
	p.ContainerEvent(c.Name, corev1.EventTypeNormal, "Started", "Container started")
	if c.Lifecycle != nil && c.Lifecycle.PostStart != nil {
		return p.postStart(ctx, c, inst)
	}
	return nil
}

// stdin makes the pipe that a container reads as its input, in the sandbox's directory, with which it goes. Nobody can attach
// to a container, so nobody ever writes to it: as with the kubelet, what reads it waits, also with stdinOnce, which closes the
// pipe after the first who attached. Without stdin there is none, and input has ended before it begins.
func (p *Pod) stdin(c *corev1.Container, id string) (path string, err error) {
	if !c.Stdin {
		return "", nil
	}
	path = filepath.Join(p.dir(), "stdin", id)
	if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
		err = unix.Mkfifo(path, 0o600)
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("cannot make input of container %s: %w", c.Name, err)
	}
	return path, nil
}

// turn waits until a container of the pod may be made. Those that share a shim
// are made one after the other: together, each would start one.
func (p *Pod) turn(ctx context.Context, shares bool) (done func(), err error) {
	if !shares {
		return p.node.starting.Take(ctx)
	}
	p.sharing.Lock()
	end, err := p.node.starting.Take(ctx)
	if err != nil {
		p.sharing.Unlock()
		return nil, err
	}
	return func() {
		end()
		p.sharing.Unlock()
	}, nil
}

// userOf is who a container's first process begins as.
func userOf(oci *specs.Spec) *corev1.ContainerUser {
	u := &corev1.LinuxContainerUser{UID: int64(oci.Process.User.UID), GID: int64(oci.Process.User.GID)}
	for _, gid := range oci.Process.User.AdditionalGids {
		u.SupplementalGroups = append(u.SupplementalGroups, int64(gid))
	}
	return &corev1.ContainerUser{Linux: u}
}

// launch makes and starts the container and records it.
func (p *Pod) launch(ctx context.Context, inst *instance, req runtime.Request) error {
	// Once begun it is carried through: cancelling half-way would only cost
	// the containerd calls that clean up.
	ctx = context.WithoutCancel(ctx)
	p.node.Owner.Claim(inst.ID, p)
	p.mu.Lock()
	p.instances[inst.ID] = inst // before it exists, so that its end is noticed however early
	delete(p.prepared, inst.Name)
	p.mu.Unlock()
	made, err := p.node.Containers.Create(ctx, req)
	if failed := (*runtime.StartError)(nil); err != nil && !errors.As(err, &failed) {
		return &stepError{"CreateContainerError", err}
	}
	if err == nil {
		p.change(func() {
			if inst.State == pods.Created { // else it has ended meanwhile
				inst.StartedAt = time.Now()
			}
		})
		// Kept before it runs: a machine that ends right afterwards must not run it again as the same instance.
		err = p.save(inst)
		if made.State == runtime.Created {
			if err == nil {
				err = p.node.Containers.Start(ctx, inst.ID)
			}
			if err != nil {
				err = errors.Join(err, p.node.Containers.Remove(ctx, inst.ID, false))
			}
		}
	}
	if err != nil {
		return &stepError{"RunContainerError", err}
	}
	p.change(func() {
		inst.changed = time.Now()
		if inst.State == pods.Created { // else it has ended meanwhile
			inst.State = pods.Running
		}
		p.restarted(inst)
	})
	return nil
}

// endedError is a failed start that has been recorded as the container's end:
// what follows is decided by that, as after any exit.
type endedError struct{ err error }

func (e *endedError) Error() string { return e.err.Error() }
func (e *endedError) Unwrap() error { return e.err }

// unstarted records that containerd could not run the container, and why.
func (p *Pod) unstarted(ctx context.Context, inst *instance, why error) error {
	p.ContainerEvent(inst.Name, corev1.EventTypeNormal, "Created", "Container created")
	now := time.Now()
	p.change(func() {
		inst.State, inst.Reason, inst.ExitCode, inst.Message = pods.Exited, pods.ReasonStartError, pods.StartErrorCode, why.Error()
		inst.StartedAt, inst.FinishedAt, inst.changed = time.Time{}, now, now
	})
	if err := errors.Join(p.save(inst), p.node.Containers.DropLayer(ctx, inst.ID), p.release(ctx, inst.ID)); err != nil {
		p.log.Warn("cannot clean up after failed start", "container", inst.Name, "error", err)
	}
	return &endedError{why}
}

// postStart runs the hook; its failure ends the container.
func (p *Pod) postStart(ctx context.Context, c *corev1.Container, inst *instance) error {
	interrupted := p.node.Containers.Interruption()
	hook, cancel := context.WithCancel(ctx)
	defer cancel()
	p.steps.Go(func() { p.cancelAfter(hook, inst.ID, cancel) })
	err := p.hook(hook, c, inst.ID, c.Lifecycle.PostStart)
	switch {
	case err == nil:
	case ctx.Err() != nil || interrupted(ctx):
		return err // nobody knows how it ended: it runs again
	case hook.Err() != nil:
		return nil // the container has ended, and the hook's end means nothing any more
	}
	why := ""
	if err != nil {
		why = p.hookFailed(c, c.Lifecycle.PostStart, err)
	}
	p.change(func() { inst.Hooked, inst.HookError = err == nil, why })
	if err != nil {
		p.ContainerEvent(c.Name, corev1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
		p.log.Warn("hook failed", "hook", "postStart", "container", c.Name, "error", err)
	}
	return p.save(inst)
}

// hookAgain runs a postStart hook whose end was not learned, because the agent
// or containerd was killed while it ran: a hook may run more than once.
func (p *Pod) hookAgain(ctx context.Context, step pods.Step) error {
	p.mu.Lock()
	object, inst := p.wanted.Pod, p.instances[step.ID]
	p.mu.Unlock()
	c := pods.ContainerOf(object, step.Container)
	if inst == nil || c == nil || c.Lifecycle == nil || c.Lifecycle.PostStart == nil {
		return nil
	}
	return p.postStart(ctx, c, inst)
}

// shimGroup is what containers of the pod share a shim by; empty for init
// containers, which end early, and where there is nobody to share with.
func (p *Pod) shimGroup(object *corev1.Pod, c *corev1.Container) string {
	if len(object.Spec.Containers) < 2 || !slices.ContainsFunc(object.Spec.Containers, func(o corev1.Container) bool {
		return o.Name == c.Name
	}) {
		return ""
	}
	return string(p.uid)
}

// input collects what the container's specification depends on.
func (p *Pod) input(ctx context.Context, object *corev1.Pod, c *corev1.Container, pr *prepared, sb sandbox,
	vols map[string]volumes.Mounted) (spec.Input, error) {
	sources, err := p.node.envSources(ctx, object, c)
	if err == nil {
		sources.Files, err = fileKeys(c, vols)
	}
	if err != nil {
		return spec.Input{}, err
	}
	in := spec.Input{
		Pod: object, Container: c, Image: pr.image.Config, Users: pr.users, Node: p.node.Facts(), Sources: sources,
		PodIPs: sb.IPs, HostIPs: p.node.HostIPs(), CgroupPath: filepath.Join(p.cgroup(), pr.id),
		Sandbox: p.sandboxPaths(object, sb),
	}
	if object.Spec.HostNetwork {
		in.PodIPs = in.HostIPs
	}
	// A sandbox of an earlier release has its files elsewhere.
	if err := p.node.writeFiles(ctx, object, sb, false); err != nil {
		return in, err
	}
	if in.TerminationLog, err = p.node.Records.terminationLog(p.uid, c.Name, pr.attempt); err != nil {
		return in, err
	}
	if s := spec.SeccompProfile(object, c); s != nil && s.LocalhostProfile != nil {
		if in.SeccompProfiles, err = p.node.seccompProfile(*s.LocalhostProfile); err != nil {
			return in, &stepError{spec.ReasonCreate, err}
		}
	}
	return in, nil
}

func (p *Pod) sandboxPaths(object *corev1.Pod, sb sandbox) spec.Sandbox {
	dir, files := p.dir(), p.node.Volumes.FilesDir(p.uid)
	ns := filepath.Join(dir, "ns")
	s := spec.Sandbox{
		Hosts: filepath.Join(files, "hosts"), Resolv: filepath.Join(files, "resolv.conf"), Hostname: filepath.Join(files, "hostname"),
		Name: sb.Hostname, PID: sb.pidPath(),
		OtherRuntime: sb.otherRuntime(),
	}
	n := namespacesOf(object, sb)
	if n.Net {
		s.Network = network.NetPath(ns)
	}
	if n.UTS {
		s.UTS = network.UTSPath(ns)
	}
	if sb.FirstID != 0 {
		s.User, s.FirstID, s.IDs = network.UserPath(ns), sb.FirstID, userns.Length
	}
	s.Shm = "/dev/shm"
	if n.IPC {
		s.IPC, s.Shm = network.IPCPath(ns), filepath.Join(dir, "shm")
	}
	return s
}

// mounts resolves each volume mount of the container to a path on the host, by the volumes that are images and the others.
func (p *Pod) mounts(ctx context.Context, in spec.Input, images, vols map[string]volumes.Mounted) ([]spec.Mount, error) {
	var out []spec.Mount
	env, err := spec.Env(in)
	if err != nil {
		return nil, err
	}
	for i, m := range in.Container.VolumeMounts {
		v, ok := vols[m.Name]
		if !ok {
			v, ok = images[m.Name]
		}
		if !ok {
			return nil, fmt.Errorf("cannot mount volume %s: it is not set up", m.Name)
		}
		sub, err := spec.SubPath(m, env)
		if err != nil {
			return nil, err
		}
		path := v.HostPath
		if sub != "" {
			if path, err = p.node.Volumes.SubPath(ctx, p.uid, v, sub, in.Container.Name, i); err != nil {
				return nil, err
			}
		}
		out = append(out, spec.Mount{Source: path, ReadOnly: v.ReadOnly, Options: v.Options, Shifted: v.Shifted})
	}
	return out, nil
}

// devicesOf are the devices behind a container's volume devices.
func devicesOf(c *corev1.Container, vols map[string]volumes.Mounted) ([]spec.Device, error) {
	var out []spec.Device
	for _, d := range c.VolumeDevices {
		v := vols[d.Name]
		if v.Device == nil {
			return nil, fmt.Errorf("cannot map volume %s: it is no device", d.Name)
		}
		on := *v.Device
		out = append(out, spec.Device{ReadOnly: v.ReadOnly, LinuxDevice: specs.LinuxDevice{
			Type: "b", Major: on.Major, Minor: on.Minor, FileMode: &on.Mode, UID: &on.UID, GID: &on.GID}})
	}
	return out, nil
}

// configError is a failure to learn what the container is made from.
func configError(err error) error {
	if s := (*stepError)(nil); errors.As(err, &s) {
		return err
	}
	reason := spec.ReasonConfig
	if c := (*spec.ConfigError)(nil); errors.As(err, &c) {
		reason = c.Reason
	}
	return &stepError{reason, err}
}

// seccompProfile reads a Localhost profile below the agent's directory.
func (n *Node) seccompProfile(name string) (map[string][]byte, error) {
	root, err := os.OpenRoot(n.SeccompDir)
	if err != nil {
		return nil, fmt.Errorf("cannot read seccomp profile %q: %w", name, err)
	}
	defer root.Close()
	data, err := root.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read seccomp profile %q: %w", name, err)
	}
	return map[string][]byte{name: data}, nil
}

func stopSignal(c *corev1.Container, img Image) string {
	if c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
		return string(*c.Lifecycle.StopSignal)
	}
	return strings.TrimSpace(img.Config.StopSignal)
}
