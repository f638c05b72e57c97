package volumes

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/nodeagent/beneath"
)

// imageFlags are how an image's files are mounted. The container's own mount of them says so again: the OCI runtime would
// drop there what it is not told of.
const imageFlags = unix.MS_RDONLY | unix.MS_NOEXEC | unix.MS_NOSUID | unix.MS_NODEV

func imageMounted(dir string, st unix.Statfs_t) Mounted {
	return Mounted{HostPath: dir, ReadOnly: true, Options: []string{"noexec", "nosuid", "nodev"},
		Shifted: st.Type == unix.OVERLAYFS_SUPER_MAGIC} // an image of one layer is no overlay, and mounted as other volumes are
}

// Image returns a volume that shows an image; false says that MountImage has not mounted it since the machine started.
func (m *Manager) Image(uid types.UID, volume string) (Mounted, bool) {
	dir := m.volumeDir(uid, volume)
	mounted, err := mountinfo.Mounted(dir)
	if err != nil || !mounted {
		return Mounted{}, false
	}
	var st unix.Statfs_t
	const whole = unix.ST_RDONLY | unix.ST_NOEXEC | unix.ST_NOSUID | unix.ST_NODEV
	if unix.Statfs(dir, &st) != nil || st.Flags&whole != whole {
		return Mounted{}, false // the last that MountImage does is missing
	}
	return imageMounted(dir, st), true
}

// MountImage mounts the unpacked layers of an image as a volume of a pod, read-only and without programs that could be
// run. An overlay of them may have the mount package's options uidmap and gidmap, the others are mapped by who mounts the
// volume. One that is mounted stays as it is. It goes with the pod's Teardown.
func (m *Manager) MountImage(ctx context.Context, uid types.UID, volume string, layers []mount.Mount) (Mounted, error) {
	unlock, err := m.lock(uid)
	if err != nil {
		return Mounted{}, err
	}
	defer unlock()
	dir := m.volumeDir(uid, volume)
	if err := makeDir(ctx, dir, beneath.Attr{Mode: 0o755}); err != nil {
		return Mounted{}, err
	}
	mounted, err := mountinfo.Mounted(dir)
	if err == nil && !mounted {
		err = mount.All(layers, dir)
	}
	if err == nil {
		err = unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|imageFlags, "")
	}
	var st unix.Statfs_t
	if err == nil {
		err = unix.Statfs(dir, &st)
	}
	if err != nil {
		return Mounted{}, errors.Join(fmt.Errorf("failed to mount image volume: %w", err), unmountBelow(ctx, dir))
	}
	return imageMounted(dir, st), nil
}
