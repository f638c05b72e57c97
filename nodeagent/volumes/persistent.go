package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/nodeagent/beneath"
	"lockstep/nodeagent/csi"
	"lockstep/nodeagent/pods"
)

// mountPersistent mounts what a claim of the pod stands for, which is made where it is a directory of this node. Nothing of it is ever
// removed here: what ends with the pod are mounts, and the empty directories that they are at.
func (m *Manager) mountPersistent(ctx context.Context, pod *corev1.Pod, v *corev1.Volume, p pods.Persistent) (Mounted, error) {
	dir := m.volumeDir(pod.UID, v.Name)
	made := Mounted{HostPath: dir, ReadOnly: p.ReadOnly}
	if p.Own != nil {
		if err := m.own.Make(p.Own); err != nil {
			return Mounted{}, err
		}
	}
	switch source := p.Source; {
	case source.CSI != nil:
		return m.mountDriver(ctx, pod, p)
	case p.Block:
		device, err := m.mapLocal(pod.UID, v.Name, source.Local, p.ReadOnly)
		if err != nil {
			err = &pods.MountError{Reason: "FailedMapVolume", Cause: err,
				Text: fmt.Sprintf("MapVolume.MapBlockVolume failed for volume %q : %v", p.Name, err)}
		}
		return Mounted{Device: device, ReadOnly: p.ReadOnly}, err
	case source.HostPath != nil:
		made.HostPath = source.HostPath.Path
		return made, checkHostPath(source.HostPath)
	case source.Local != nil:
		path, err := m.diskOf(ctx, pod.UID, v.Name, p)
		if err != nil {
			return made, err
		}
		return made, m.mountLocal(ctx, dir, pod, path, p.ReadOnly)
	case source.NFS != nil:
		nfs := *source.NFS
		nfs.ReadOnly = nfs.ReadOnly || p.ReadOnly
		made.ReadOnly = nfs.ReadOnly
		return made, mountNFS(ctx, dir, nfs, p.Options)
	}
	return Mounted{}, errors.New("this kind of persistent volume is not supported")
}

// mountDriver has a CSI driver mount a volume.
func (m *Manager) mountDriver(ctx context.Context, pod *corev1.Pod, p pods.Persistent) (Mounted, error) {
	path, err := m.publish(ctx, csi.Claimed(pod, &p))
	if err != nil || !p.Block {
		return Mounted{HostPath: path, ReadOnly: p.ReadOnly}, err
	}
	device, err := deviceAt(path)
	if err != nil {
		err = &pods.MountError{Reason: "FailedMapVolume", Cause: err,
			Text: fmt.Sprintf("MapVolume.MapPodDevice failed for volume %q : %v", p.Name, err)}
	}
	return Mounted{Device: device, ReadOnly: p.ReadOnly}, err
}

func (m *Manager) publish(ctx context.Context, v csi.Volume) (string, error) {
	if m.drivers == nil {
		return "", errors.New("this node has no CSI drivers")
	}
	return m.drivers.Publish(ctx, v)
}

// mapLocal finds the device that a local volume is, or attaches the file that it is to one. It is asked for at each start of the agent:
// a machine that was started anew may have given a device other numbers.
func (m *Manager) mapLocal(pod types.UID, volume string, source *corev1.LocalVolumeSource, readOnly bool) (*Device, error) {
	if source == nil {
		return nil, errors.New("only local volumes are of mode Block")
	}
	var st unix.Stat_t
	if err := unix.Stat(source.Path, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: source.Path, Err: err}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		return deviceAt(source.Path)
	case unix.S_IFREG:
		path, err := m.loops.attach(pod, volume, source.Path, readOnly)
		if err != nil {
			return nil, err
		}
		return deviceAt(path)
	}
	return nil, errNoDevice(source.Path)
}

// deviceAt describes the block device at a path.
func deviceAt(path string) (*Device, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return nil, errNoDevice(path)
	}
	number := uint64(st.Rdev)
	return &Device{Major: int64(unix.Major(number)), Minor: int64(unix.Minor(number)), Mode: fs.FileMode(st.Mode & 0o777),
		UID: st.Uid, GID: st.Gid}, nil
}

// diskOf returns the directory that a local volume is: its path or, where a block device is at that, where its file system is mounted for
// the pod.
func (m *Manager) diskOf(ctx context.Context, pod types.UID, volume string, p pods.Persistent) (string, error) {
	path := p.Source.Local.Path
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return path, nil // mountLocal says what is wrong with it
	}
	kind := ""
	if p.Source.Local.FSType != nil {
		kind = *p.Source.Local.FSType
	}
	dir := filepath.Join(m.podDir(pod), "disks", volume)
	if err := m.disks.mount(ctx, path, dir, kind, p.Options, p.ReadOnly); err != nil {
		return "", &pods.MountError{Text: fmt.Sprintf("MountVolume.MountDevice failed for volume %q : %v", p.Name, err), Cause: err}
	}
	return dir, nil
}

// mountLocal mounts a directory of the machine. The pod's fsGroup gets it before, as its policy says, unless another pod
// has it mounted already. A crash leaves a volume that is not mounted, of which some files have the group.
func (m *Manager) mountLocal(ctx context.Context, dir string, pod *corev1.Pod, path string, readOnly bool) error {
	if !filepath.IsAbs(path) || hasDotDot(path) {
		return fmt.Errorf("invalid path: %s must be absolute and must not contain '..'", path)
	}
	mounted, err := isMounted(dir)
	if err != nil || mounted {
		return err
	}
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("path %q does not exist", path)
	}
	if err != nil {
		return err
	}
	fd, err := unix.Open(real, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOTDIR) {
		return errors.New("only directory and block device are supported")
	}
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if group := fsGroup(pod); group != nil && !readOnly {
		if err := m.giveTo(ctx, *group, pod, real); err != nil {
			return err
		}
	}
	if err := makeDir(ctx, dir, beneath.Attr{Mode: 0o750}); err != nil {
		return err
	}
	return os.NewSyscallError("mount", unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), dir, "", unix.MS_BIND, ""))
}

// giveTo gives a directory that outlives pods to the pod's fsGroup.
func (m *Manager) giveTo(ctx context.Context, group int64, pod *corev1.Pod, path string) error {
	shared, err := m.mounted(path, m.podDir(pod.UID))
	if err != nil || shared {
		return err
	}
	policy := pod.Spec.SecurityContext.FSGroupChangePolicy
	if policy != nil && *policy == corev1.FSGroupChangeOnRootMismatch {
		given, err := beneath.Given(path, group)
		if err != nil || given {
			return err
		}
	}
	return beneath.Give(ctx, path, group)
}

// Mounted says whether a directory is mounted as a volume of any pod, or a file is attached to a loop device; what is absent is neither.
func (m *Manager) Mounted(path string) (bool, error) {
	return m.mounted(path, "")
}

// mounted is Mounted but for what is mounted below a directory; empty: none.
func (m *Manager) mounted(path, but string) (bool, error) {
	var st, at unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return false, err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		return attached(loopFile{uint64(st.Dev), st.Ino})
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(m.dir))
	return slices.ContainsFunc(mounts, func(i *mountinfo.Info) bool {
		// By its device first: what is on another may not answer.
		return unix.Mkdev(uint32(i.Major), uint32(i.Minor)) == uint64(st.Dev) && (but == "" || !strings.HasPrefix(i.Mountpoint, but+"/")) &&
			unix.Lstat(i.Mountpoint, &at) == nil && at.Dev == st.Dev && at.Ino == st.Ino
	}), err
}

// Resized has the device of a file that has grown be as large; a file that is absent, or no pod's device, is left alone.
func (m *Manager) Resized(path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return m.loops.resize(loopFile{uint64(st.Dev), st.Ino})
}

// isMounted says whether something is mounted at dir. Unlike isMountpoint it knows of a directory that is mounted on its
// own file system, and asks no server of one that is on a network.
func isMounted(dir string) (bool, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(dir))
	return len(mounts) > 0, err
}
