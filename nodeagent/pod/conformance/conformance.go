// Package conformance is what pods rely on of a machine, as tests of any.
package conformance

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/nodeagent/images"
	"lockstep/nodeagent/logs"
	"lockstep/nodeagent/network"
	"lockstep/nodeagent/pod"
	"lockstep/nodeagent/probes"
	"lockstep/nodeagent/runtime"
	"lockstep/nodeagent/spec"
	"lockstep/nodeagent/volumes"
)

// Subject is a machine to be tested.
type Subject struct {
	Machine pod.Machine
	Facts   spec.Node
	// Image is on the machine, Missing is in no registry; it is asked for with the policy Never.
	Image, Missing string
	// Forever runs until SIGTERM, with which it ends at once; True ends with 0; Absent is a program that the image lacks.
	Forever, True, Absent []string
	// Break is called before Absent is started; nil does nothing.
	Break func(program string)
	// RunDir, LogDir and Cgroup are as in pod.Options.
	RunDir, LogDir, Cgroup string
}

// Run runs all tests. They remove what they have made.
func Run(t *testing.T, s Subject) {
	t.Run("Containers", s.containers)
	t.Run("StartErrors", s.startErrors)
	t.Run("Sandboxes", s.sandboxes)
	t.Run("Volumes", s.volumes)
	t.Run("Images", s.images)
	t.Run("ImageVolumes", s.imageVolumes)
	t.Run("Probes", s.probes)
}

// none fails for an error.
func none(t *testing.T, doing string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", doing, err)
	}
}

// twice does what may be repeated.
func twice(t *testing.T, doing string, f func() error) {
	t.Helper()
	none(t, doing, f())
	none(t, doing+" again", f())
}

func object(uid string, command []string, image string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: uid, UID: types.UID(uid)},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: image, Command: command}}}}
}

// request has everything made that a container needs but the container.
func (s Subject) request(t *testing.T, uid string, command []string) runtime.Request {
	t.Helper()
	ctx, m, o := t.Context(), s.Machine, object(uid, command, s.Image)
	image, err := m.Images.Ensure(ctx, images.Request{Image: s.Image})
	none(t, "Ensure", err)
	who := runtime.Identity{PodUID: uid, PodNamespace: o.Namespace, PodName: o.Name, Name: "main"}
	id, cgroup := who.ID(), filepath.Join(s.Cgroup, "pod"+uid)
	dir := pod.SandboxDir(s.RunDir, o.UID)
	none(t, "MkdirAll", os.MkdirAll(dir, 0o711))
	n := network.Namespaces{Net: true, UTS: true, IPC: true, Hostname: uid}
	none(t, "Pin", m.Sandboxes.Pin(dir, n))
	twice(t, "Limit", func() error { return m.Sandboxes.Limit(cgroup, spec.PodLimits(o, s.Facts)) })
	twice(t, "WriteFiles", func() error {
		return m.Volumes.WriteFiles(ctx, o.UID, map[string]string{"hosts": "", "resolv.conf": "", "hostname": uid + "\n"}, false)
	})
	_, err = m.Containers.Prepare(ctx, id, image.ChainID)
	none(t, "Prepare", err)
	layer, err := m.Containers.Prepare(ctx, id, image.ChainID)
	none(t, "Prepare again", err)
	users, err := m.Images.Users(ctx, image, layer)
	none(t, "Users", err)
	stdout, stderr := logs.FIFOs(s.RunDir, id)
	stream := logs.Stream{ID: id, Path: logs.Path(filepath.Join(s.LogDir, uid), "main", 0), Stdout: stdout, Stderr: stderr}
	twice(t, "Open", func() error { return m.Logs.Open(ctx, stream) })
	message := filepath.Join(dir, "message")
	none(t, "WriteFile", os.WriteFile(message, nil, 0o600))
	files, ns := m.Volumes.FilesDir(o.UID), filepath.Join(dir, "ns")
	oci, err := spec.Build(spec.Input{Pod: o, Container: &o.Spec.Containers[0], Image: image.Config, Users: users, Node: s.Facts,
		CgroupPath: filepath.Join(cgroup, id), TerminationLog: message, Sandbox: spec.Sandbox{
			Network: network.NetPath(ns), IPC: network.IPCPath(ns), UTS: network.UTSPath(ns), Shm: filepath.Join(dir, "shm"), Name: uid,
			Hosts: filepath.Join(files, "hosts"), Resolv: filepath.Join(files, "resolv.conf"), Hostname: filepath.Join(files, "hostname")}})
	none(t, "Build", err)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(ctx)
		twice(t, "Remove", func() error { return m.Containers.Remove(ctx, id, true) })
		twice(t, "Close", func() error { return m.Logs.Close(ctx, id) })
		twice(t, "DropLayer", func() error { return m.Containers.DropLayer(ctx, id) })
		twice(t, "DropRemains", func() error { return m.Containers.DropRemains(ctx, []string{id}) })
		twice(t, "Unlimit", func() error { return m.Sandboxes.Unlimit(cgroup) })
		twice(t, "Teardown", func() error { return m.Volumes.Teardown(ctx, o.UID) })
		twice(t, "Unpin", func() error { return m.Sandboxes.Unpin(dir) })
		if _, err := m.Containers.Get(ctx, id); !errdefs.IsNotFound(err) {
			t.Errorf("Get of what was removed: %v", err)
		}
		if _, _, err := m.Containers.Usage(ctx, id); !errdefs.IsNotFound(err) {
			t.Errorf("Usage of what was removed: %v", err)
		}
	})
	return runtime.Request{
		Container: runtime.Container{ID: id, Identity: who, Sandbox: "s", Hash: "h", Image: image.Name, ImageID: image.ID},
		Spec:      oci,
		Layer:     layer,
		Stdout:    stdout,
		Stderr:    stderr,
	}
}

func (s Subject) containers(t *testing.T) {
	ctx, c := t.Context(), s.Machine.Containers
	interrupted := c.Interruption()
	req := s.request(t, "conform-run", s.Forever)
	if _, err := c.Get(ctx, req.ID); !errdefs.IsNotFound(err) {
		t.Errorf("Get of none: %v", err)
	}
	state := func(want runtime.State) runtime.Container {
		t.Helper()
		got, err := c.Get(ctx, req.ID)
		same := got.Identity == req.Identity && got.Sandbox == "s" && got.Hash == "h" && got.ImageID == req.ImageID
		if err != nil || got.State != want || !same {
			t.Errorf("Get = %+v, %v, want state %d", got, err, want)
		}
		return got
	}
	for range 2 {
		made, err := c.Create(ctx, req)
		if err != nil || made.State != runtime.Created {
			t.Fatalf("Create = %+v, %v", made, err)
		}
		state(runtime.Created)
	}
	none(t, "Start", c.Start(ctx, req.ID))
	state(runtime.Running)
	if made, err := c.Create(ctx, req); err != nil || made.State != runtime.Running {
		t.Errorf("Create of what runs = %+v, %v", made, err)
	}
	if code, _, err := c.Exec(ctx, req.ID, s.True); code != 0 || err != nil {
		t.Errorf("Exec = %d, %v", code, err)
	}
	if _, _, err := c.Usage(ctx, req.ID); err != nil {
		t.Errorf("Usage = %v", err)
	}
	twice(t, "Resize", func() error {
		return c.Resize(ctx, req.ID, &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: new(uint64(64))}})
	})
	if s.Machine.Sandboxes.OOMKilled(filepath.Join(s.Cgroup, "podconform-run", req.ID)) {
		t.Error("OOMKilled of one that runs")
	}
	twice(t, "Stop", func() error { return c.Stop(ctx, req.ID, syscall.SIGTERM, time.Minute) })
	if got := state(runtime.Stopped); got.ExitedAt.IsZero() {
		t.Error("it has ended at no time")
	}
	if _, _, err := c.Exec(ctx, req.ID, s.True); err == nil {
		t.Error("Exec in what has ended")
	}
	twice(t, "Reap", func() error { return c.Reap(ctx, req.ID) })
	state(runtime.Absent)
	twice(t, "EndRemains", func() error { return c.EndRemains(ctx, filepath.Join(s.Cgroup, "podconform-run", req.ID), req.ID) })
	if interrupted(ctx) {
		t.Error("the machine was interrupted")
	}
}

func (s Subject) startErrors(t *testing.T) {
	c := s.Machine.Containers
	if s.Break != nil {
		s.Break(s.Absent[0])
	}
	req := s.request(t, "conform-fail", s.Absent)
	_, err := c.Create(t.Context(), req)
	if err == nil {
		err = c.Start(t.Context(), req.ID)
	}
	if failed := (*runtime.StartError)(nil); !errors.As(err, &failed) {
		t.Errorf("the start of an absent program: %v", err)
	}
}

func (s Subject) sandboxes(t *testing.T) {
	ctx, m := t.Context(), s.Machine.Sandboxes
	dir := pod.SandboxDir(s.RunDir, "conform-net")
	none(t, "MkdirAll", os.MkdirAll(dir, 0o711))
	n := network.Namespaces{Net: true, UTS: true, IPC: true, Hostname: "conform"}
	if m.Pinned(dir, n) {
		t.Error("Pinned before Pin")
	}
	none(t, "Pin", m.Pin(dir, n))
	if !m.Pinned(dir, n) {
		t.Error("not Pinned after Pin")
	}
	p := network.Pod{UID: "conform-net", Namespace: "default", Name: "conform"}
	ips, err := m.Add(ctx, p, network.NetPath(filepath.Join(dir, "ns")))
	if err != nil || len(ips) == 0 {
		t.Errorf("Add = %v, %v", ips, err)
	}
	twice(t, "Remove", func() error { return m.Remove(ctx, p, network.NetPath(filepath.Join(dir, "ns"))) })
	twice(t, "Unpin", func() error { return m.Unpin(dir) })
	if m.Pinned(dir, n) {
		t.Error("Pinned after Unpin")
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is left: %v", err)
	}
}

func (s Subject) volumes(t *testing.T) {
	ctx, m := t.Context(), s.Machine.Volumes
	o := object("conform-vol", nil, s.Image)
	o.Spec.Volumes = []corev1.Volume{{Name: "empty", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: "late"}}}}}
	there := false
	from := volumes.Sources{
		ConfigMap: func(_, name string) (*corev1.ConfigMap, error) {
			if !there {
				return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, name)
			}
			return &corev1.ConfigMap{Data: map[string]string{"a": "1"}}, nil
		},
		Secret: func(_, name string) (*corev1.Secret, error) {
			return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name)
		},
	}
	_, err := m.Setup(ctx, o, from)
	if failed := volumes.Errors(err); len(failed) != 1 || failed[0].Volume != "config" || !apierrors.IsNotFound(failed[0]) {
		t.Errorf("Setup without a ConfigMap = %v", err)
	}
	there = true
	var paths []string
	for range 2 {
		got, err := m.Setup(ctx, o, from)
		if err != nil || len(got) != 2 || got["empty"].HostPath == "" {
			t.Errorf("Setup = %v, %v", got, err)
		}
		paths = append(paths, got["empty"].HostPath)
	}
	if paths[0] != paths[1] {
		t.Errorf("a volume moves: %v", paths)
	}
	if _, err := m.Update(ctx, o, from); err != nil {
		t.Errorf("Update = %v", err)
	}
	if _, err := m.Usage(ctx, o.UID, "empty"); err != nil {
		t.Errorf("Usage = %v", err)
	}
	twice(t, "Teardown", func() error { return m.Teardown(ctx, o.UID) })
}

func (s Subject) images(t *testing.T) {
	for range 2 {
		got, err := s.Machine.Images.Ensure(t.Context(), images.Request{Image: s.Image})
		if err != nil || got.Name == "" || got.ID == "" || got.ChainID == "" {
			t.Errorf("Ensure = %+v, %v", got, err)
		}
	}
	_, err := s.Machine.Images.Ensure(t.Context(), images.Request{Image: s.Missing, Policy: corev1.PullNever})
	if failed := (*images.Error)(nil); !errors.As(err, &failed) || failed.Reason != images.ReasonErrImageNeverPull {
		t.Errorf("Ensure of a missing image = %v", err)
	}
}

func (s Subject) imageVolumes(t *testing.T) {
	ctx, m, uid := t.Context(), s.Machine, types.UID("conform-view")
	image, err := m.Images.Ensure(ctx, images.Request{Image: s.Image})
	none(t, "Ensure", err)
	if got, ok := m.Volumes.Image(uid, "shown"); ok {
		t.Errorf("Image before MountImage = %+v", got)
	}
	id := runtime.ViewID(string(uid), "shown")
	for range 2 {
		layers, err := m.Containers.View(ctx, id, image.ChainID)
		none(t, "View", err)
		mounted, err := m.Volumes.MountImage(ctx, uid, "shown", layers)
		if err != nil || mounted.HostPath == "" || !mounted.ReadOnly {
			t.Errorf("MountImage = %+v, %v", mounted, err)
		}
		if got, ok := m.Volumes.Image(uid, "shown"); !ok || got.HostPath != mounted.HostPath {
			t.Errorf("Image = %+v, %v", got, ok)
		}
	}
	twice(t, "Teardown", func() error { return m.Volumes.Teardown(ctx, uid) })
	twice(t, "DropLayer", func() error { return m.Containers.DropLayer(ctx, id) })
	if got, ok := m.Volumes.Image(uid, "shown"); ok {
		t.Errorf("Image after Teardown = %+v", got)
	}
}

func (s Subject) probes(t *testing.T) {
	m, o := s.Machine.Probes, object("conform-probe", nil, s.Image)
	m.Set(o, []probes.Running{{Name: "main", ID: "one", StartedAt: time.Now()}}, "192.0.2.1")
	if r := m.Results(o.UID)["main"]; r.ID != "one" || !r.Started || !r.Ready || r.Failed != "" {
		t.Errorf("a container without probes: %+v", r)
	}
	m.Set(o, nil, "192.0.2.1")
	if r := m.Results(o.UID); len(r) != 0 {
		t.Errorf("no container runs, and there are results %v", r)
	}
}
