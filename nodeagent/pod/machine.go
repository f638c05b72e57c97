package pod

import (
	"context"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/nodeagent/images"
	"lockstep/nodeagent/logs"
	"lockstep/nodeagent/network"
	"lockstep/nodeagent/probes"
	containers "lockstep/nodeagent/runtime"
	"lockstep/nodeagent/spec"
	"lockstep/nodeagent/volumes"
)

// Machine is what pods are made of. Its parts are safe for concurrent use. What makes or removes something may be called
// again, after a failure and after a success: what is made already is kept, and what is absent is no error.
type Machine struct {
	Containers Containers
	Sandboxes  Sandboxes
	Volumes    Volumes
	Images     Images
	Logs       Logs
	Probes     Probes
	Events     Events
	Devices    Devices
}

// Devices are those of the machine that containers are given by name.
type Devices interface {
	// Inject adds devices to a container's specification; the error says which of them nobody knows.
	Inject(spec *specs.Spec, names []string) error
	// Health is how devices were when they were looked at last, by their resources; it does not wait.
	Health(names []string) []corev1.ResourceStatus
}

// Containers makes, ends and looks at containers, each of which has an ID of its own.
type Containers interface {
	// Prepare makes the writable layer of a container over an image's layers, and returns what mounts it.
	Prepare(ctx context.Context, id, chainID string) ([]mount.Mount, error)
	// View makes a view of an image's layers that nobody can write to, and returns what mounts it. One that is there and shows
	// other layers is replaced.
	View(ctx context.Context, id, chainID string) ([]mount.Mount, error)
	// DropLayer removes a layer that no container uses, or a view.
	DropLayer(ctx context.Context, id string) error
	// Create makes a container, in the state Created. One that is there is kept, and its state returned. A *StartError says
	// that it cannot be run as the request says; nothing but the layer is left of it then.
	Create(ctx context.Context, req containers.Request) (containers.Container, error)
	// Start lets a created container run; a *StartError is as Create's.
	Start(ctx context.Context, id string) error
	// Get looks at a container; errdefs.IsNotFound says that there is none.
	Get(ctx context.Context, id string) (containers.Container, error)
	// Exec runs a command in a running container until it ends or ctx does, which kills it. It returns its exit code and the
	// beginning of its output.
	Exec(ctx context.Context, id string, command []string) (code int, output []byte, err error)
	// Resize gives a running container other limits; of what they do not name it keeps what it has.
	Resize(ctx context.Context, id string, limits *specs.LinuxResources) error
	// Stop ends a container, by a signal and after the grace period by SIGKILL, and returns when it has ended.
	Stop(ctx context.Context, id string, sig syscall.Signal, grace time.Duration) error
	// Reap frees what an ended container still holds beside its layer. Its exit is no longer known then.
	Reap(ctx context.Context, id string) error
	// Remove ends and removes a container, with layer also its writable layer.
	Remove(ctx context.Context, id string, layer bool) error
	// EndRemains ends what runs of a container that Get says is not there; cgroup is the container's.
	EndRemains(ctx context.Context, cgroup, id string) error
	// DropRemains removes what shims that were killed left, by the names that they had: of containers or pods, which are gone.
	DropRemains(ctx context.Context, names []string) error
	// Usage is what a container's writable layer takes of the disk.
	Usage(ctx context.Context, id string) (bytes, inodes uint64, err error)
	// Interruption begins to watch the machine's connection to its containers; what it returns says whether it has been lost
	// since, so that what failed meanwhile may have failed for that alone.
	Interruption() (happened func(context.Context) bool)
}

// Sandboxes makes what the containers of a pod share: namespaces, shared memory, a network and a cgroup.
type Sandboxes interface {
	// Pin makes the namespaces and shared memory in a directory, which is there.
	Pin(dir string, n network.Namespaces) error
	// Pinned says whether all of them are there.
	Pinned(dir string, n network.Namespaces) bool
	// Shift has the files of a container's writable layer, or of a view, be those of the pod's user namespace, whose user 0 is
	// the host's firstID and which is pinned in a directory. It returns what mounts the layer so, for as long as it is pinned.
	Shift(dir string, layer []mount.Mount, firstID uint32) ([]mount.Mount, error)
	// Unpin removes them, and the directory with all that is in it.
	Unpin(dir string) error
	// Add joins a network namespace to the pods' network and returns the pod's addresses. An error for which
	// errors.Is(err, network.ErrNotReady) holds says that there is no network yet.
	Add(ctx context.Context, pod network.Pod, netns string) ([]string, error)
	// Remove takes the namespace out of the network and frees the addresses.
	Remove(ctx context.Context, pod network.Pod, netns string) error
	// Tune writes sysctls, by their names with dots, in the namespaces of a directory.
	Tune(dir string, sysctls map[string]string) error
	// Limit makes a cgroup with limits, or sets them anew.
	Limit(cgroup string, limits *specs.LinuxResources) error
	// Unlimit removes a cgroup with those below it, none of which has a process.
	Unlimit(cgroup string) error
	// OOMKilled says whether a process of the cgroup was killed for lack of memory. It is known until the container is reaped.
	OOMKilled(cgroup string) bool
}

// Volumes makes pods' volumes and the files that their containers see in /etc; volumes.Manager says how.
type Volumes interface {
	Setup(ctx context.Context, pod *corev1.Pod, sources volumes.Sources) (map[string]volumes.Mounted, error)
	Update(ctx context.Context, pod *corev1.Pod, sources volumes.Sources) (changed int, err error)
	Image(uid types.UID, volume string) (volumes.Mounted, bool)
	MountImage(ctx context.Context, uid types.UID, volume string, layers []mount.Mount) (volumes.Mounted, error)
	SubPath(ctx context.Context, uid types.UID, volume volumes.Mounted, subPath, container string, index int) (string, error)
	Usage(ctx context.Context, uid types.UID, volume string) (uint64, error)
	FilesDir(uid types.UID) string
	WriteFiles(ctx context.Context, uid types.UID, texts map[string]string, replace bool) error
	Teardown(ctx context.Context, uid types.UID) error
}

// Images has the images that containers are made from.
type Images interface {
	// Ensure has an image on the machine, unpacked. An *images.Error, or one that Failed has made, says why it cannot be used.
	Ensure(ctx context.Context, req images.Request) (Image, error)
	// Users are those that an image knows, read through a layer of it that is mounted nowhere yet.
	Users(ctx context.Context, image Image, layer []mount.Mount) (spec.Users, error)
}

// Image is what containers need to know of an image.
type Image struct {
	// Name and ID are as in a container's status, ChainID names the unpacked layers.
	Name, ID, ChainID string
	Config            imagespec.ImageConfig
}

// Logs reads the pipes of containers and writes their logs.
type Logs interface {
	// Open makes a stream's pipes and reads them until Close.
	Open(ctx context.Context, s logs.Stream) error
	// Close writes what is still in the pipes, and removes them.
	Close(ctx context.Context, id string) error
}

// Probes probes the running containers of pods; probes.Manager says how.
type Probes interface {
	// Set states which containers of a pod run, and its address; an empty list ends all of its probes.
	Set(pod *corev1.Pod, running []probes.Running, ip string)
	// Results is what is known of the containers that were stated, by their names.
	Results(uid types.UID) map[string]probes.Result
}

// Events takes Kubernetes events about objects; it does not block.
type Events interface {
	Event(object runtime.Object, eventType, reason, message string)
}
