// Package hollow is a node without a machine: it keeps what a machine would have made, and nothing of it runs.
package hollow

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/nodeagent/images"
	"lockstep/nodeagent/logs"
	"lockstep/nodeagent/network"
	"lockstep/nodeagent/pod"
	"lockstep/nodeagent/probes"
	containers "lockstep/nodeagent/runtime"
	"lockstep/nodeagent/spec"
	"lockstep/nodeagent/volumes"
)

// maxEvents bounds the events that are remembered: a test looks at few, and a node lives long.
const maxEvents = 1000

// Machine keeps what pods make of it. Containers run until they are stopped or End is called.
type Machine struct {
	dir   string // of files that pods write
	ended func(id string)

	mu         sync.Mutex
	layers     map[string]bool
	containers map[string]containers.Container
	tasks      map[string]bool // of containers, until they are reaped
	streams    map[string]bool
	pinned     map[string]bool       // by directory
	addresses  map[string]netip.Addr // by pod
	last       netip.Addr
	cgroups    map[string]bool
	mounted    map[types.UID]map[string]volumes.Mounted
	shown      map[types.UID]map[string]volumes.Mounted // those that are images
	running    map[types.UID]map[string]probes.Result
	missing    map[string]bool // images
	broken     map[string]bool // programs
	making     func(id string)
	begun      func(id string)
	runtimes   map[string]string // types, by container
	remains    []string          // containers whose remains were ended
	events     []string
}

// NewMachine returns an empty one, which has all images and programs. Ended is told of each container that ends, as
// containerd's events tell it; it must not block.
func NewMachine(dir string, ended func(id string)) *Machine {
	return &Machine{
		dir: dir, ended: ended, layers: map[string]bool{}, containers: map[string]containers.Container{},
		tasks: map[string]bool{}, streams: map[string]bool{}, pinned: map[string]bool{}, addresses: map[string]netip.Addr{},
		last: netip.AddrFrom4([4]byte{10, 42, 0, 0}), cgroups: map[string]bool{},
		mounted: map[types.UID]map[string]volumes.Mounted{}, shown: map[types.UID]map[string]volumes.Mounted{},
		running: map[types.UID]map[string]probes.Result{},
		missing: map[string]bool{}, broken: map[string]bool{}, runtimes: map[string]string{},
	}
}

// Parts is the machine as pods use it.
func (m *Machine) Parts() pod.Machine {
	return pod.Machine{Containers: ownContainers{m}, Sandboxes: sandboxes{m}, Volumes: ownVolumes{m},
		Images: ownImages{m}, Logs: ownLogs{m}, Probes: ownProbes{m}, Events: m, Devices: m}
}

// Inject implements pod.Devices: it has all devices, and nobody to give them to.
func (m *Machine) Inject(*specs.Spec, []string) error { return nil }

// Health implements pod.Devices.
func (*Machine) Health([]string) []corev1.ResourceStatus { return nil }

// Hold has making called for each container between its record and its first process.
func (m *Machine) Hold(making func(id string)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.making = making
}

// Begin has begun called for each container once its first process runs, before whoever started it knows.
func (m *Machine) Begin(begun func(id string)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.begun = begun
}

// Remains are the containers whose remains were ended.
func (m *Machine) Remains() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.remains)
}

// Lose has an image go missing from its registry, or come back.
func (m *Machine) Lose(image string, missing bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.missing[image] = missing
}

// Break has containers that begin with a program fail to start.
func (m *Machine) Break(program string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.broken[program] = true
}

// Running are the containers that run, by their pod's name and their own.
func (m *Machine) Running() map[string]containers.Container {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string]containers.Container{}
	for _, c := range m.containers {
		if c.State == containers.Running {
			out[c.PodName+"/"+c.Name] = c
		}
	}
	return out
}

// Runtime is the type of the runtime that a container was made for; empty: it was said of none.
func (m *Machine) Runtime(id string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.runtimes[id]
}

// End has a container's process end by itself; of one that does not run nothing happens.
func (m *Machine) End(id string, code uint32) {
	m.mu.Lock()
	ends := m.exit(id, code)
	m.mu.Unlock()
	if ends {
		m.ended(id)
	}
}

// exit says whether the container has ended by it. m.mu is held.
func (m *Machine) exit(id string, code uint32) bool {
	c, ok := m.containers[id]
	if !ok || c.State != containers.Running && c.State != containers.Created {
		return false
	}
	c.State, c.ExitCode, c.ExitedAt = containers.Stopped, code, time.Now()
	m.containers[id] = c
	return true
}

// Left are the things that pods have made and not removed.
func (m *Machine) Left() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for what, n := range map[string]int{"layers": len(m.layers), "containers": len(m.containers), "tasks": len(m.tasks),
		"streams": len(m.streams), "namespaces": len(m.pinned),
		"addresses": len(m.addresses), "cgroups": len(m.cgroups), "volumes": len(m.mounted), "images": len(m.shown)} {
		if n > 0 {
			out = append(out, fmt.Sprintf("%d %s", n, what))
		}
	}
	return out
}

// Events are the newest, each with its reason and message.
func (m *Machine) Events() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string(nil), m.events...)
}

// Event implements pod.Events.
func (m *Machine) Event(_ runtime.Object, _, reason, message string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.events = append(m.events[max(len(m.events)-maxEvents+1, 0):], reason+": "+message)
}

type ownContainers struct{ *Machine }

func (m ownContainers) Prepare(_ context.Context, id, _ string) ([]mount.Mount, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.layers[id] = true
	return nil, nil
}

func (m ownContainers) View(_ context.Context, id, _ string) ([]mount.Mount, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.layers[id] = true
	return nil, nil
}

func (m ownContainers) DropLayer(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.layers, id)
	return nil
}

func (m ownContainers) Create(_ context.Context, req containers.Request) (containers.Container, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c, ok := m.containers[req.ID]; ok && (c.State == containers.Created || c.State == containers.Running) {
		return c, nil
	}
	if program := req.Spec.Process.Args[0]; m.broken[program] {
		return containers.Container{}, containers.NewStartError("create containerd task", fmt.Errorf("exec: %q: not found", program))
	}
	c := req.Container
	m.runtimes[c.ID] = req.Runtime
	if making := m.making; making != nil {
		m.containers[c.ID] = c
		m.mu.Unlock()
		making(c.ID)
		m.mu.Lock()
	}
	c.State, c.CreatedAt = containers.Created, time.Now()
	m.containers[c.ID], m.tasks[c.ID] = c, true
	return c, nil
}

func (m ownContainers) Start(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, ok := m.containers[id]
	if !ok {
		return absent(id)
	}
	c.State = containers.Running
	m.containers[id] = c
	if begun := m.begun; begun != nil {
		m.mu.Unlock()
		begun(id)
		m.mu.Lock()
	}
	return nil
}

func absent(id string) error {
	return fmt.Errorf("cannot read container %s: %w", id, errdefs.ErrNotFound)
}

func (m ownContainers) Get(_ context.Context, id string) (containers.Container, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, ok := m.containers[id]
	if !ok {
		return c, absent(id)
	}
	return c, nil
}

// Exec has every command succeed at once.
func (m ownContainers) Exec(_ context.Context, id string, _ []string) (int, []byte, error) {
	if c, err := m.Get(context.Background(), id); err != nil || c.State != containers.Running {
		return 0, nil, errors.Join(err, fmt.Errorf("cannot run command: container %s does not run", id))
	}
	return 0, nil, nil
}

// Stop has every program end by the first signal, as one that does not handle it.
func (m ownContainers) Stop(_ context.Context, id string, sig syscall.Signal, _ time.Duration) error {
	m.End(id, 128+uint32(sig))
	return nil
}

func (m ownContainers) Reap(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, ok := m.containers[id]
	if ok && c.State == containers.Running {
		return fmt.Errorf("cannot reap container %s: it runs", id)
	}
	delete(m.tasks, id)
	if ok {
		c.State = containers.Absent
		m.containers[id] = c
	}
	return nil
}

func (m ownContainers) Remove(_ context.Context, id string, layer bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.containers, id)
	delete(m.tasks, id)
	if layer {
		delete(m.layers, id)
	}
	return nil
}

func (m ownContainers) EndRemains(_ context.Context, _, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.remains = append(m.remains, id)
	return nil
}

func (ownContainers) DropRemains(context.Context, []string) error { return nil }
func (ownContainers) Interruption() (happened func(context.Context) bool) {
	return func(context.Context) bool { return false }
}

func (m ownContainers) Usage(_ context.Context, id string) (bytes, inodes uint64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.layers[id] {
		return 0, 0, absent(id)
	}
	return 0, 0, nil
}

type sandboxes struct{ *Machine }

func (m sandboxes) Pin(dir string, _ network.Namespaces) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pinned[dir] = true
	return nil
}

func (m sandboxes) Pinned(dir string, _ network.Namespaces) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pinned[dir]
}

func (m sandboxes) Shift(dir string, layer []mount.Mount, _ uint32) ([]mount.Mount, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.pinned[dir] {
		return nil, os.ErrNotExist
	}
	return layer, nil
}

func (m sandboxes) Unpin(dir string) error {
	m.mu.Lock()
	delete(m.pinned, dir)
	m.mu.Unlock()
	return os.RemoveAll(dir)
}

func (m sandboxes) Add(_ context.Context, p network.Pod, _ string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.addresses[p.UID]; !ok {
		m.last = m.last.Next()
		m.addresses[p.UID] = m.last
	}
	return []string{m.addresses[p.UID].String()}, nil
}

func (m sandboxes) Remove(_ context.Context, p network.Pod, _ string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.addresses, p.UID)
	return nil
}

func (ownContainers) Resize(context.Context, string, *specs.LinuxResources) error { return nil }

func (sandboxes) Tune(string, map[string]string) error { return nil }

func (m sandboxes) Limit(cgroup string, _ *specs.LinuxResources) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cgroups[cgroup] = true
	return nil
}

func (m sandboxes) Unlimit(cgroup string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.cgroups, cgroup)
	return nil
}

func (sandboxes) OOMKilled(string) bool { return false }

type ownVolumes struct{ *Machine }

func (m ownVolumes) Setup(_ context.Context, p *corev1.Pod, from volumes.Sources) (map[string]volumes.Mounted, error) {
	made, errs := map[string]volumes.Mounted{}, []error(nil)
	for _, v := range p.Spec.Volumes {
		if v.Image != nil {
			continue
		}
		var err error
		switch optional := func(o *bool) bool { return o != nil && *o }; {
		case v.ConfigMap != nil && !optional(v.ConfigMap.Optional):
			_, err = from.ConfigMap(p.Namespace, v.ConfigMap.Name)
		case v.Secret != nil && !optional(v.Secret.Optional):
			_, err = from.Secret(p.Namespace, v.Secret.SecretName)
		case v.PersistentVolumeClaim != nil, v.Ephemeral != nil:
			_, err = from.Persistent(p, &v)
		}
		if err != nil {
			errs = append(errs, &volumes.Error{Volume: v.Name, Cause: err})
			continue
		}
		made[v.Name] = volumes.Mounted{HostPath: filepath.Join(m.podDir(p.UID), v.Name)}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mounted[p.UID] = made
	return made, errors.Join(errs...)
}

func (m ownVolumes) Update(ctx context.Context, p *corev1.Pod, from volumes.Sources) (int, error) {
	made, err := m.Setup(ctx, p, from)
	return len(made), err
}

func (m ownVolumes) Image(uid types.UID, volume string) (volumes.Mounted, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	mounted, ok := m.shown[uid][volume]
	return mounted, ok
}

func (m ownVolumes) MountImage(_ context.Context, uid types.UID, volume string, _ []mount.Mount) (volumes.Mounted, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.shown[uid] == nil {
		m.shown[uid] = map[string]volumes.Mounted{}
	}
	m.shown[uid][volume] = volumes.Mounted{HostPath: filepath.Join(m.podDir(uid), volume), ReadOnly: true}
	return m.shown[uid][volume], nil
}

func (m ownVolumes) SubPath(_ context.Context, _ types.UID, v volumes.Mounted, sub, _ string, _ int) (string, error) {
	return filepath.Join(v.HostPath, sub), nil
}

func (ownVolumes) Usage(context.Context, types.UID, string) (uint64, error) { return 0, nil }

func (m *Machine) podDir(uid types.UID) string { return filepath.Join(m.dir, "volumes", string(uid)) }

func (m ownVolumes) FilesDir(uid types.UID) string { return filepath.Join(m.podDir(uid), "etc") }

func (ownVolumes) WriteFiles(context.Context, types.UID, map[string]string, bool) error { return nil }

func (m ownVolumes) Teardown(_ context.Context, uid types.UID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.mounted, uid)
	delete(m.shown, uid)
	return nil
}

type ownImages struct{ *Machine }

func (m ownImages) Ensure(_ context.Context, req images.Request) (pod.Image, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.missing[req.Image] {
		reason := images.ReasonErrImagePull
		if req.Policy == corev1.PullNever {
			reason = images.ReasonErrImageNeverPull
		}
		return pod.Image{}, &images.Error{Reason: reason, Message: "there is no such image"}
	}
	return pod.Image{Name: req.Image, ID: req.Image + "@sha256:0", ChainID: "sha256:0",
		Config: imagespec.ImageConfig{Cmd: []string{"/program"}}}, nil
}

func (ownImages) Users(context.Context, pod.Image, []mount.Mount) (spec.Users, error) {
	return spec.Users{}, nil
}

type ownLogs struct{ *Machine }

func (m ownLogs) Open(_ context.Context, s logs.Stream) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.streams[s.ID] = true
	return nil
}

func (m ownLogs) Close(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.streams, id)
	return nil
}

type ownProbes struct{ *Machine }

// Set has every probe succeed at once.
func (m ownProbes) Set(p *corev1.Pod, running []probes.Running, _ string) {
	results := map[string]probes.Result{}
	for _, r := range running {
		results[r.Name] = probes.Result{ID: r.ID, Started: true, Ready: true}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.running[p.UID] = results
}

func (m ownProbes) Results(uid types.UID) map[string]probes.Result {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.running[uid]
}
