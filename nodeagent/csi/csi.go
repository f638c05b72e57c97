// Package csi has volumes mounted by the CSI drivers that run on a node.
package csi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"
)

// timeout bounds one call of a driver, and the wait for a volume to be attached: the kubelet's figure.
const timeout = 2 * time.Minute

// Cluster is what drivers' volumes need of it. apierrors.IsNotFound says that there is no such object; what is returned is shared.
type Cluster interface {
	Driver(ctx context.Context, name string) (*storagev1.CSIDriver, error)
	Attachment(ctx context.Context, name string) (*storagev1.VolumeAttachment, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	// Token is one of the pod's service account.
	Token(ctx context.Context, pod *corev1.Pod, p *corev1.ServiceAccountTokenProjection) (string, error)
	// InUse says that the cluster knows that this node uses a volume, by the name that it has in a node's status.
	InUse(ctx context.Context, volume string) (bool, error)
}

// Options are what a Manager needs; all of them are required.
type Options struct {
	// Dir is what drivers see as the kubelet's directory. It must be on a disk, and in the mount namespace of containerd.
	Dir string
	// Node is the node's name.
	Node    string
	Cluster Cluster
	// Knows says that the node has a pod, also one that is ending: nothing of it is removed but by Unpublish.
	Knows func(types.UID) bool
	// Sockets are those that running pods say a driver's controller service listens at.
	Sockets func() []Socket
	// Changed is told that InUse or what Report writes may be another one now; it does not block.
	Changed func()
	Events  func(pod *corev1.Pod, kind, reason, message string)
	Log     *slog.Logger
}

// Manager knows the drivers of the node, and the volumes that they have made for its pods. What it knows of volumes is on the disk
// alone. It is safe for concurrent use.
type Manager struct {
	opts Options
	dirs layout
	wake chan struct{} // of sweep
	news chan struct{} // of Report

	mu      sync.Mutex
	sockets map[string]*registration // by the path of the registration's socket
	drivers map[string]*driver       // those that are registered, by name
	offered map[types.UID]offer      // controllers in pods of their own
	locks   map[string]*lock         // by volume
	again   map[string]*republish    // by target path: what has to be published again and again
}

// New makes the directories that drivers expect; it starts nothing.
func New(o Options) (*Manager, error) {
	m := &Manager{opts: o, dirs: layout{o.Dir}, wake: make(chan struct{}, 1), news: make(chan struct{}, 1),
		sockets: map[string]*registration{}, drivers: map[string]*driver{}, offered: map[types.UID]offer{},
		locks: map[string]*lock{}, again: map[string]*republish{}}
	for _, dir := range []string{m.dirs.pods(), m.dirs.plugins(), m.dirs.registry()} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return nil, fmt.Errorf("cannot make the directories of CSI drivers: %w", err)
		}
	}
	real, err := filepath.EvalSymlinks(o.Dir) // the kernel lists mounts by their real paths
	if err != nil {
		return nil, fmt.Errorf("cannot find the directory of CSI drivers: %w", err)
	}
	m.dirs.dir = real
	return m, share(real)
}

// share has what is mounted below a directory by a container seen by all others: drivers mount in their own mount namespace.
func share(dir string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.ParentsFilter(dir))
	if err != nil {
		return fmt.Errorf("cannot read mounts: %w", err)
	}
	var at *mountinfo.Info
	for _, i := range mounts {
		if at == nil || len(i.Mountpoint) >= len(at.Mountpoint) {
			at = i
		}
	}
	if at != nil && shared(at) {
		return nil
	}
	if at == nil || at.Mountpoint != dir {
		if err := unix.Mount(dir, dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("cannot share %s: %w", dir, err)
		}
	}
	if err := unix.Mount("", dir, "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("cannot share %s: %w", dir, err)
	}
	return nil
}

// Run finds the drivers that come and go, and removes what no pod wants any more, until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.watch(ctx) })
	g.Go(func() error { return m.sweep(ctx) })
	g.Go(func() error { return m.republish(ctx) })
	g.Go(func() error { return m.lookAtSockets(ctx) })
	err := g.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.sockets {
		if r.driver != nil {
			r.driver.close()
		}
	}
	m.drivers, m.sockets = map[string]*driver{}, map[string]*registration{}
	return err
}

// driver is one that is registered; the error is the kubelet's.
func (m *Manager) driver(name string) (*driver, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d := m.drivers[name]; d != nil {
		return d, nil
	}
	return nil, fmt.Errorf("driver name %s not found in the list of registered CSI drivers", name)
}

// changed tells all who may want to know that drivers or volumes have changed.
func (m *Manager) changed() {
	poke(m.wake)
	poke(m.news)
	m.opts.Changed()
}

func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // a wake-up is pending
	}
}

// lock is of a volume that is being staged or unstaged.
type lock struct {
	held  chan struct{} // has room while nobody holds it
	users int
}

// lock waits until nobody else stages or unstages the volume.
func (m *Manager) lock(ctx context.Context, volume string) (unlock func(), err error) {
	m.mu.Lock()
	l := m.locks[volume]
	if l == nil {
		l = &lock{held: make(chan struct{}, 1)}
		m.locks[volume] = l
	}
	l.users++
	m.mu.Unlock()
	leave := func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(m.locks, volume)
		}
	}
	select {
	case l.held <- struct{}{}:
		return func() { <-l.held; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}

// isMounted says whether something is mounted at a path. It asks nobody who may not answer.
func isMounted(path string) (bool, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(path))
	return len(mounts) > 0, err
}

// removeMountPoint removes what a driver mounted at, and may have left.
func removeMountPoint(path string) error {
	mounted, err := isMounted(path)
	if err != nil {
		return err
	}
	if mounted {
		return fmt.Errorf("%s is still mounted", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
