// Package images manages the container images on the node.
package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"

	"lockstep/nodeagent/access"
)

// The reasons of an Error, as the kubelet has them in a waiting container's status.
const (
	ReasonErrImagePull      = "ErrImagePull"
	ReasonImagePullBackOff  = "ImagePullBackOff"
	ReasonErrImageNeverPull = "ErrImageNeverPull"
	ReasonInvalidImageName  = "InvalidImageName"
	ReasonImageInspectError = "ImageInspectError"
)

// Options are what a Manager needs.
type Options struct {
	// Client speaks to containerd. Required.
	Client *client.Client
	// Namespace is containerd's; empty means `lockstep`.
	Namespace string
	// Snapshotter unpacks images; empty means overlayfs where it works, and native elsewhere.
	Snapshotter string
	// CertsDirs hold `<registry>/hosts.toml`, `_default` too; the first that knows a registry wins. Empty means
	// /etc/containerd/certs.d and /etc/docker/certs.d.
	CertsDirs []string
	// Parallel bounds the pulls that go on together, however long they last, as the kubelet's maxParallelImagePulls. Zero means that
	// four begin together, and that one which lasts holds up no other, of up to 32.
	Parallel int
	// Credentials are files as docker's config.json, of which the first that can be read counts: what every pod of the node may
	// pull with. They are read anew for each pull.
	Credentials []string
	// Verify says which pods may use an image that is here already.
	Verify access.Verification
	// RecordsDir keeps with what images were pulled; empty means that it is forgotten with the manager.
	RecordsDir string
	// DiskPath is on the file system whose fullness makes Collect remove images; empty means /var/lib/containerd.
	DiskPath string
	// Boot names the time since the machine was started, for what was pulled in an earlier one. Empty: it is not known.
	Boot string
	// Pulled, if not nil, is told of each pull that ended.
	Pulled func(took time.Duration, err error)
	// Interruption begins to watch the connection to containerd; what it returns tells whether it was lost since. Nil
	// means that it never is. What failed for that alone is not held against the image.
	Interruption func() (happened func(context.Context) bool)
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Manager pulls, imports and removes images. It is safe for concurrent use and starts nothing of its own but pulls.
type Manager struct {
	client      *client.Client
	namespace   string
	snapshotter string
	certsDirs   []string
	diskPath    string
	pulled      func(took time.Duration, err error)
	interrupted func() func(context.Context) bool
	now         func() time.Time

	boot        string // names the time since the machine was started
	credentials []string
	verify      access.Verification
	recordsDir  string
	tellEvery   time.Duration // tellPeriod but in tests

	backoff backoff
	pulls   lanes
	disk    flusher

	mu      sync.Mutex
	records map[digest.Digest]access.Record // by the image's digest; those that were asked for
	flying  map[string]*flight              // pulls under way, by image and credentials
	used    map[string]time.Time            // when an image, by its digest, was last asked for or seen in use
	seen    map[string]time.Time            // when it was first seen
	known   map[string]known                // what was described, by name
}

// known is an image that was described: what it is does not change while its digest is the same.
type known struct {
	image *Image
	chain string // names the unpacked layers in the snapshotter
}

// Image is one that is on the node and unpacked.
type Image struct {
	// Name is the full name, `docker.io/library/nginx:latest`.
	Name string
	// ID is the image's identity for a container's status: `docker.io/library/nginx@sha256:…`, or the
	// configuration's digest for an image that came from no registry.
	ID string
	// Config is the image's: user, entrypoint, command, environment, working directory, stop signal.
	Config ocispec.ImageConfig
	// Size is that of the compressed content in bytes.
	Size int64
	// Snapshotter has the unpacked layers.
	Snapshotter string
	// Containerd is containerd's object, for client.WithNewSnapshot.
	Containerd client.Image

	imported bool // from a file
}

// Error says why an image cannot be used.
type Error struct {
	// Reason is one of the reasons above.
	Reason string
	// Message is the kubelet's, for the container's status and the event "Failed".
	Message string
	// RetryAt is when asking again makes sense; zero when nothing but a new pod, or a new image here, helps.
	RetryAt time.Time
}

func (e *Error) Error() string { return e.Reason + ": " + e.Message }

// Event is a Kubernetes event to be posted about the pod.
type Event struct {
	Type    string // Normal or Warning
	Reason  string
	Message string
}

// Request asks for an image.
type Request struct {
	// Image is the name as the pod states it.
	Image string
	// Policy is the container's; empty means the default for the name.
	Policy corev1.PullPolicy
	// Secrets are the pod's pull secrets that exist, in their order.
	Secrets []corev1.Secret
	// Event is called with each event as it happens, from the calling goroutine; nil drops them.
	Event func(Event)
	// Progress is called every 10 s while the image is pulled, from the calling goroutine: how many bytes have come, of how many that
	// are known to come. Nil drops it.
	Progress func(done, of int64)
}

// New returns a manager. It asks containerd which snapshotters work.
func New(ctx context.Context, options Options) (*Manager, error) {
	m := &Manager{
		client: options.Client, namespace: options.Namespace, snapshotter: options.Snapshotter,
		certsDirs: options.CertsDirs, diskPath: options.DiskPath, pulled: options.Pulled,
		interrupted: options.Interruption, now: options.Now, boot: options.Boot, credentials: options.Credentials, verify: options.Verify,
		recordsDir: options.RecordsDir, tellEvery: tellPeriod, records: map[digest.Digest]access.Record{},
		backoff: backoff{failures: map[string]failure{}},
		flying:  map[string]*flight{}, used: map[string]time.Time{}, seen: map[string]time.Time{}, known: map[string]known{},
	}
	if m.client == nil {
		return nil, errors.New("cannot manage images: no containerd client")
	}
	if m.interrupted == nil {
		m.interrupted = func() func(context.Context) bool { return func(context.Context) bool { return false } }
	}
	if m.namespace == "" {
		m.namespace = "lockstep"
	}
	if len(m.certsDirs) == 0 {
		m.certsDirs = []string{"/etc/containerd/certs.d", "/etc/docker/certs.d"}
	}
	if m.diskPath == "" {
		m.diskPath = "/var/lib/containerd"
	}
	if m.now == nil {
		m.now = time.Now
	}
	m.pulls = newLanes(options.Parallel)
	if m.recordsDir != "" {
		if err := os.MkdirAll(m.recordsDir, 0o700); err != nil {
			return nil, fmt.Errorf("cannot keep records of images: %w", err)
		}
	}
	if m.snapshotter == "" {
		var err error
		if m.snapshotter, err = chooseSnapshotter(ctx, m.client); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// quiet takes what containerd's client logs: what fails is returned, and is told by our caller.
var quiet = func() *log.Entry {
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	return logrus.NewEntry(logger)
}()

// context is for calls of containerd.
func (m *Manager) context(ctx context.Context) context.Context {
	return log.WithLogger(namespaces.WithNamespace(ctx, m.namespace), quiet)
}

// chooseSnapshotter takes the first that containerd could initialise.
func chooseSnapshotter(ctx context.Context, c *client.Client) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	response, err := c.IntrospectionService().Plugins(ctx, "type==io.containerd.snapshotter.v1")
	if err != nil {
		return "", fmt.Errorf("cannot list containerd's snapshotters: %w", err)
	}
	for _, name := range []string{"overlayfs", "native"} {
		for _, plugin := range response.Plugins {
			if plugin.ID == name && plugin.InitErr == nil {
				return name, nil
			}
		}
	}
	return "", errors.New("cannot choose a snapshotter: containerd has neither overlayfs nor native")
}

// Snapshotter is the one images are unpacked with.
func (m *Manager) Snapshotter() string { return m.snapshotter }

// inspectTimeout bounds what asks containerd only.
const inspectTimeout = 30 * time.Second

// Ensure returns the image when it is on the node, or was pulled as its policy says. An error is an *Error, or ctx's.
// A second request for what is being pulled waits for the same pull, which goes on when one of those who wait gives up.
func (m *Manager) Ensure(ctx context.Context, req Request) (*Image, error) {
	event := req.Event
	if event == nil {
		event = func(Event) {}
	}
	name, err := Normalize(req.Image)
	if err != nil {
		message := fmt.Sprintf("Failed to apply default image tag %q: %v", req.Image, err)
		event(Event{corev1.EventTypeWarning, "InspectFailed", message})
		return nil, &Error{Reason: ReasonInvalidImageName, Message: message}
	}
	policy := Policy(req.Image, req.Policy)
	keys := sync.OnceValue(func() keys { return m.keysFor(name, req.Secrets) })
	if policy != corev1.PullAlways {
		interrupted := m.interrupted()
		image, err := m.Get(ctx, name)
		switch {
		case err == nil && m.mayUse(req.Image, image, keys):
			message := fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", req.Image)
			event(Event{corev1.EventTypeNormal, "Pulled", message})
			return image, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil && !errdefs.IsNotFound(err) && interrupted(ctx):
			return nil, fmt.Errorf("cannot inspect image %q: %w", req.Image, err)
		case err != nil && !errdefs.IsNotFound(err):
			message := fmt.Sprintf("Failed to inspect image %q: %s", req.Image, told(err))
			event(Event{corev1.EventTypeWarning, "InspectFailed", message})
			return nil, &Error{ReasonImageInspectError, message, m.now().Add(firstBackoff)}
		case policy == corev1.PullNever: // whether an image is there is nothing for a pod that may not use it
			message := fmt.Sprintf("Container image %q is not present with pull policy of Never", req.Image)
			event(Event{corev1.EventTypeWarning, ReasonErrImageNeverPull, message})
			return nil, &Error{Reason: ReasonErrImageNeverPull, Message: message}
		}
	}
	if err := keys().unreadable; err != nil {
		return nil, &Error{ReasonErrImagePull, err.Error(), m.now().Add(firstBackoff)}
	}
	return m.pull(ctx, req, name, keys(), event)
}

// pull pulls the image unless it failed lately.
func (m *Manager) pull(ctx context.Context, req Request, name string, keys keys, event func(Event)) (*Image, error) {
	key, stated := flightKey(name, keys), req.Image
	if at, why, wait := m.backoff.until(key, m.now()); wait {
		message := fmt.Sprintf("Back-off pulling image %q", stated)
		event(Event{corev1.EventTypeNormal, "BackOff", message})
		if why != "" {
			message += ": " + why
		}
		return nil, &Error{ReasonImagePullBackOff, message, at}
	}
	event(Event{corev1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", stated)})
	asked := m.now()
	result := m.fly(ctx, key, req.Progress, func(ctx context.Context, going *progress) landed {
		began, interrupted := m.now(), m.interrupted()
		result := m.download(ctx, name, keys, going)
		if m.pulled != nil {
			m.pulled(m.now().Sub(began), result.err)
		}
		switch {
		case result.err == nil:
			m.backoff.succeed(key)
		case interrupted(ctx):
			result.interrupted = true
		default: // counted once, for all who wait
			m.backoff.fail(key, m.now(), ReasonErrImagePull+": "+told(result.err))
		}
		return result
	})
	if err := ctx.Err(); err != nil && result.image == nil {
		return nil, err
	}
	if result.interrupted {
		return nil, fmt.Errorf("cannot pull image %q: %w", stated, result.err)
	}
	if result.err != nil {
		message := told(result.err)
		event(Event{corev1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %s", stated, message)})
		at, _, _ := m.backoff.until(key, m.now())
		return nil, &Error{ReasonErrImagePull, message, at}
	}
	event(Event{corev1.EventTypeNormal, "Pulled", fmt.Sprintf(
		"Successfully pulled image %q in %v (%v including waiting). Image size: %v bytes.", stated,
		result.took.Truncate(time.Millisecond), m.now().Sub(asked).Truncate(time.Millisecond), result.image.Size)})
	return result.image, nil
}

// Get returns an image that is on the node, whole, and unpacks it if that was not done yet. The error satisfies
// errdefs.IsNotFound when it is not there, or not all of it; what is damaged is removed.
func (m *Manager) Get(ctx context.Context, image string) (*Image, error) {
	name, err := Normalize(image)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(m.context(ctx), unpackTimeout)
	defer cancel()
	stored, err := m.client.GetImage(ctx, name)
	if err != nil {
		return nil, err
	}
	if image := m.recall(ctx, stored); image != nil {
		return image, nil
	}
	if err := m.distrust(ctx, stored); err != nil {
		return nil, err
	}
	err = m.unpack(ctx, stored)
	if err == nil {
		err = m.settle(ctx, stored, "")
	}
	var described *Image
	if err == nil {
		described, err = m.describe(ctx, stored)
	}
	if err != nil && ctx.Err() == nil && !errdefs.IsNotFound(err) && m.dropDamaged(ctx, m.partsOf(ctx, stored.Target())) > 0 {
		return nil, fmt.Errorf("content of image %s is damaged: %w", name, errdefs.ErrNotFound)
	}
	return described, err
}

// recall returns an image as it was described before, if it is still the same and its layers are there. Describing
// reads several blobs, and every start of a container asks.
func (m *Manager) recall(ctx context.Context, stored client.Image) *Image {
	m.mu.Lock()
	k, ok := m.known[stored.Name()]
	m.mu.Unlock()
	_, imported := stored.Labels()[importLabel]
	if !ok || k.image.Containerd.Target().Digest != stored.Target().Digest || imported != k.image.imported {
		return nil
	}
	if _, err := m.client.SnapshotService(m.snapshotter).Stat(ctx, k.chain); err != nil {
		return nil
	}
	image := *k.image
	image.Containerd = stored
	m.mu.Lock()
	m.used[stored.Target().Digest.String()] = m.now()
	m.mu.Unlock()
	return &image
}

// unpack makes sure that the image's layers are in the snapshotter. Content that is missing is NotFound.
func (m *Manager) unpack(ctx context.Context, image client.Image) error {
	unpacked, err := image.IsUnpacked(ctx, m.snapshotter)
	if err != nil || unpacked {
		return err
	}
	available, _, _, missing, err := images.Check(ctx, m.client.ContentStore(), image.Target(), platforms.Default())
	if err != nil {
		return err
	}
	if !available || len(missing) > 0 {
		return fmt.Errorf("content of image %s: %w", image.Name(), errdefs.ErrNotFound)
	}
	key := "unpack " + image.Target().Digest.String()
	return m.fly(ctx, key, nil, func(ctx context.Context, _ *progress) landed {
		ctx, cancel := context.WithTimeout(ctx, unpackTimeout)
		defer cancel()
		return landed{err: image.Unpack(ctx, m.snapshotter)}
	}).err
}

// unpackTimeout bounds the unpacking of one image that is here.
const unpackTimeout = 10 * time.Minute

func (m *Manager) describe(ctx context.Context, image client.Image) (*Image, error) {
	spec, err := image.Spec(ctx)
	if err != nil {
		return nil, err
	}
	size, err := image.Size(ctx)
	if err != nil {
		return nil, err
	}
	layers, err := image.RootFS(ctx)
	if err != nil {
		return nil, err
	}
	id := repository(image.Name()) + "@" + image.Target().Digest.String()
	_, imported := image.Labels()[importLabel]
	if imported {
		config, err := image.Config(ctx)
		if err != nil {
			return nil, err
		}
		id = config.Digest.String()
	}
	described := Image{
		Name: image.Name(), ID: id, Config: spec.Config, Size: size,
		Snapshotter: m.snapshotter, Containerd: image, imported: imported,
	}
	remembered := described
	m.mu.Lock()
	defer m.mu.Unlock()
	m.used[image.Target().Digest.String()] = m.now()
	m.known[image.Name()] = known{&remembered, identity.ChainID(layers).String()}
	return &described, nil
}
