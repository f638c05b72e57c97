// Package volumes makes what pods mount.
package volumes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/nodeagent/beneath"
	"lockstep/nodeagent/csi"
	"lockstep/nodeagent/localpath"
	"lockstep/nodeagent/pods"
)

// Options are what a Manager needs.
type Options struct {
	// Dir holds a directory for each pod, named by its uid. It must be on a disk, private to this agent, and in
	// the mount namespace of containerd. Required.
	Dir string
	// Own are the directories that the node keeps for persistent volumes; the zero value has none.
	Own localpath.Directories
	// Drivers make the volumes of CSI drivers; nil: there are none.
	Drivers Drivers
	// Kubelet is what pods see where they name the kubelet's directory; empty: that itself.
	Kubelet string
}

// Drivers mount volumes that the node's CSI drivers make; csi.Manager says how.
type Drivers interface {
	Publish(ctx context.Context, v csi.Volume) (path string, err error)
	Unpublish(ctx context.Context, uid types.UID) error
}

// Manager makes and removes pods' volumes. It is safe for concurrent use; calls for one pod follow each other.
type Manager struct {
	dir     string
	own     localpath.Directories
	drivers Drivers
	kubelet string
	loops   loops
	disks   disks

	mu   sync.Mutex
	pods map[types.UID]*podLock
}

type podLock struct {
	sync.Mutex
	users int
}

// Sources is where the content of volumes comes from.
type Sources struct {
	// ConfigMap and Secret return an object, or an error for which apierrors.IsNotFound holds when there is none.
	// The objects are not changed.
	ConfigMap func(namespace, name string) (*corev1.ConfigMap, error)
	Secret    func(namespace, name string) (*corev1.Secret, error)
	// Persistent returns what a claim of the pod stands for.
	Persistent func(pod *corev1.Pod, v *corev1.Volume) (pods.Persistent, error)
	// Token returns a token of the pod's service account.
	Token func(pod *corev1.Pod, p *corev1.ServiceAccountTokenProjection) (string, error)
	// Allocatable is the node's, for resourceFieldRef of containers without limits, and bounds memory volumes
	// without a size; empty means neither.
	Allocatable corev1.ResourceList
}

// Mounted is a volume that containers can mount.
type Mounted struct {
	// HostPath is the volume's directory (or file, for some hostPath volumes).
	HostPath string
	// ReadOnly volumes are always mounted so: their content is the cluster's, or an image's.
	ReadOnly bool
	// Device is what containers get of a volume of mode Block, instead of a mount; nil for the others.
	Device *Device
	// Options are what else every mount of it has, as the OCI runtime names them.
	Options []string
	// Shifted says that its files are those of the pod's user namespace already: the file system cannot be mounted so.
	Shifted bool
	// Of is the persistent volume that it is; nil: none. It is not changed.
	Of *pods.Persistent
}

// Device is a block device of the machine.
type Device struct {
	Major, Minor int64
	Mode         fs.FileMode
	UID, GID     uint32
}

// Error says which volume of a pod cannot be set up. Its text is that of the kubelet's event.
type Error struct {
	Volume string
	Cause  error
}

func (e *Error) Error() string {
	if told := (*pods.MountError)(nil); errors.As(e.Cause, &told) {
		return told.Error()
	}
	return fmt.Sprintf("MountVolume.SetUp failed for volume %q : %v", e.Volume, e.Cause)
}

// Reason is that of the kubelet's event.
func (e *Error) Reason() string {
	if told := (*pods.MountError)(nil); errors.As(e.Cause, &told) && told.Reason != "" {
		return told.Reason
	}
	return "FailedMount"
}

// Unwrap gives the cause, such as a NotFound API error.
func (e *Error) Unwrap() error { return e.Cause }

// New returns a manager of the volumes below options.Dir, which it makes.
func New(options Options) (*Manager, error) {
	if options.Dir == "" {
		return nil, errors.New("cannot manage volumes: no directory")
	}
	if err := os.MkdirAll(options.Dir, 0o750); err != nil {
		return nil, fmt.Errorf("cannot make the volumes' directory: %w", err)
	}
	// The kernel lists mounts by their real paths.
	dir, err := filepath.EvalSymlinks(options.Dir)
	if err == nil {
		dir, err = filepath.Abs(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot find the volumes' directory: %w", err)
	}
	return &Manager{dir: dir, own: options.Own, drivers: options.Drivers, kubelet: cmp.Or(options.Kubelet, csi.Kubelet),
		loops: loops{dir: dir}, pods: map[types.UID]*podLock{}}, nil
}

// Setup makes the pod's volumes, but those of images, and brings their content up to date where they exist. It returns them
// by name. Each is made whatever becomes of the others: the error joins an *Error for each that cannot be; those that were made stay, for
// the next attempt.
func (m *Manager) Setup(ctx context.Context, pod *corev1.Pod, sources Sources) (map[string]Mounted, error) {
	unlock, err := m.lock(pod.UID)
	if err != nil {
		return nil, err
	}
	defer unlock()
	mounted := make(map[string]Mounted, len(pod.Spec.Volumes))
	var errs []error
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Image != nil {
			continue // MountImage makes it, for the first container that mounts it
		}
		made, err := Mounted{}, ctx.Err()
		if err == nil {
			made, err = m.setup(ctx, pod, v, sources)
		}
		if err != nil {
			errs = append(errs, &Error{v.Name, err})
			continue
		}
		mounted[v.Name] = made
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return mounted, nil
}

// Update brings the content of the pod's volumes up to date, after one of the objects they show, or the pod's labels
// or annotations, changed. Volumes that have not been set up are left alone. It returns how many it changed; the error
// joins an *Error for each that could not be looked at or changed, which keeps what it shows.
func (m *Manager) Update(ctx context.Context, pod *corev1.Pod, sources Sources) (changed int, err error) {
	unlock, err := m.lock(pod.UID)
	if err != nil {
		return 0, err
	}
	defer unlock()
	var errs []error
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if !hasContent(v) {
			continue
		}
		wrote, err := m.update(ctx, pod, v, sources)
		if err != nil {
			errs = append(errs, &Error{v.Name, err})
		}
		if wrote {
			changed++
		}
	}
	return changed, errors.Join(errs...)
}

// update brings one volume of files up to date.
func (m *Manager) update(ctx context.Context, pod *corev1.Pod, v *corev1.Volume, sources Sources) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	dir := m.volumeDir(pod.UID, v.Name)
	there, err := isThere(dir, inMemory(v))
	if err != nil || !there {
		return false, err
	}
	files, err := payload(pod, v, sources)
	if err != nil {
		return false, err
	}
	return writeFiles(ctx, dir, files, fsGroup(pod))
}

// isThere says whether a volume of files has been set up: what was in memory is gone after a reboot.
func isThere(dir string, memory bool) (bool, error) {
	if _, err := os.Lstat(dir); err != nil || !memory {
		return err == nil, nil
	}
	return isMountpoint(dir)
}

// Errors are the *Errors of the volumes that Setup or Update could not make or change.
func Errors(err error) []*Error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []*Error
		for _, one := range joined.Unwrap() {
			all = append(all, Errors(one)...)
		}
		return all
	}
	if one := (*Error)(nil); errors.As(err, &one) {
		return []*Error{one}
	}
	return nil
}

// Teardown unmounts and removes all volumes of a pod; those of CSI drivers are to be unmounted by these. Calling it again, after a
// reboot, or for a pod that never was, does nothing and succeeds.
func (m *Manager) Teardown(ctx context.Context, uid types.UID) error {
	if err := m.remove(ctx, uid); err != nil || m.drivers == nil {
		return err
	}
	return m.drivers.Unpublish(ctx, uid)
}

// remove unmounts and removes what the node itself has mounted for a pod.
func (m *Manager) remove(ctx context.Context, uid types.UID) error {
	unlock, err := m.lock(uid)
	if err != nil {
		return err
	}
	defer unlock()
	dir := m.podDir(uid)
	_, err = os.Lstat(filepath.Join(dir, devicesDir))
	mapped := err == nil
	if err := unmountBelow(ctx, dir); err != nil {
		return fmt.Errorf("cannot unmount volumes of pod %s: %w", uid, err)
	}
	if err := beneath.RemoveAll(ctx, dir); err != nil {
		return fmt.Errorf("cannot remove volumes of pod %s: %w", uid, err)
	}
	if mapped {
		return m.loops.release()
	}
	return nil
}

// EmptyDir is where an emptyDir volume of a pod is.
func (m *Manager) EmptyDir(uid types.UID, name string) string { return m.volumeDir(uid, name) }

// Pods lists the pods that have volumes here.
func (m *Manager) Pods() ([]types.UID, error) {
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		return nil, fmt.Errorf("cannot list volumes: %w", err)
	}
	var uids []types.UID
	for _, e := range entries {
		uids = append(uids, types.UID(e.Name()))
	}
	return uids, nil
}

// Sweep tears down the volumes of all pods that keep does not name, but those of CSI drivers: leftovers of pods that vanished while
// nobody looked. It goes on past errors and returns them joined.
func (m *Manager) Sweep(ctx context.Context, keep func(types.UID) bool) error {
	uids, err := m.Pods()
	if err != nil {
		return err
	}
	var errs []error
	for _, uid := range uids {
		if !keep(uid) {
			errs = append(errs, m.remove(ctx, uid))
		}
	}
	errs = append(errs, m.loops.release()) // of those that were torn down when the agent died
	return errors.Join(errs...)
}

// Usage returns the bytes that a volume of a pod takes on its file system; zero for one that is not set up. With an
// error, it is what was counted until then.
func (m *Manager) Usage(ctx context.Context, uid types.UID, volume string) (uint64, error) {
	size, err := beneath.Usage(ctx, m.volumeDir(uid, volume))
	if err != nil {
		return size.Bytes, fmt.Errorf("cannot measure volume %s of pod %s: %w", volume, uid, err)
	}
	return size.Bytes, nil
}

func (m *Manager) podDir(uid types.UID) string { return filepath.Join(m.dir, string(uid)) }

func (m *Manager) volumeDir(uid types.UID, name string) string {
	return filepath.Join(m.podDir(uid), "volumes", name)
}

// lock makes calls for one pod wait for each other. A uid that is no file name is refused: it would lead elsewhere.
func (m *Manager) lock(uid types.UID) (func(), error) {
	if uid == "" || uid == "." || uid == ".." || strings.ContainsAny(string(uid), "/\x00") {
		return nil, fmt.Errorf("cannot manage volumes of pod %q: not a uid", uid)
	}
	m.mu.Lock()
	l := m.pods[uid]
	if l == nil {
		l = &podLock{}
		m.pods[uid] = l
	}
	l.users++
	m.mu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		m.mu.Lock()
		if l.users--; l.users == 0 {
			delete(m.pods, uid)
		}
		m.mu.Unlock()
	}, nil
}

// unmountBelow unmounts everything at and below dir, the last mounted first. It succeeds only when nothing is mounted
// there any more: removing the files then cannot reach what was mounted.
func unmountBelow(ctx context.Context, dir string) error {
	// A mount may hide another one at the same place; a few rounds find them all.
	for range 4 {
		mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
		if err != nil {
			return err
		}
		if len(mounts) == 0 {
			return nil
		}
		for i := len(mounts) - 1; i >= 0; i-- {
			if err := ctx.Err(); err != nil {
				return err
			}
			err := unix.Unmount(mounts[i].Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
			if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("%s: %w", mounts[i].Mountpoint, err)
			}
		}
	}
	return fmt.Errorf("something below %s is mounted again and again", dir)
}
