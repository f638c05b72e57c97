package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
	"lockstep/nodeagent/beneath"
	"lockstep/nodeagent/csi"
)

// hasContent says whether the volume shows files that the cluster states.
func hasContent(v *corev1.Volume) bool {
	return v.ConfigMap != nil || v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil
}

// setup makes one volume.
func (m *Manager) setup(ctx context.Context, pod *corev1.Pod, v *corev1.Volume, sources Sources) (Mounted, error) {
	dir := m.volumeDir(pod.UID, v.Name)
	switch {
	case v.HostPath != nil:
		source := *v.HostPath
		source.Path = csi.Real(m.kubelet, source.Path)
		return Mounted{HostPath: source.Path}, checkHostPath(&source)
	case v.EmptyDir != nil, v.VolumeSource == (corev1.VolumeSource{}):
		return Mounted{HostPath: dir}, setupEmptyDir(ctx, dir, pod, v.EmptyDir, sources.Allocatable)
	case v.PersistentVolumeClaim != nil, v.Ephemeral != nil:
		p, err := sources.Persistent(pod, v)
		if err != nil {
			return Mounted{}, err
		}
		made, err := m.mountPersistent(ctx, pod, v, p)
		made.Of = &p
		return made, err
	case v.CSI != nil:
		path, err := m.publish(ctx, csi.Inline(pod, v))
		return Mounted{HostPath: path, ReadOnly: v.CSI.ReadOnly != nil && *v.CSI.ReadOnly}, err
	case v.NFS != nil:
		return Mounted{HostPath: dir, ReadOnly: v.NFS.ReadOnly}, mountNFS(ctx, dir, *v.NFS, nil)
	case hasContent(v):
		return Mounted{HostPath: dir, ReadOnly: true}, setupContent(ctx, dir, pod, v, sources)
	}
	return Mounted{}, errors.New("this kind of volume is not supported")
}

// setupContent makes a volume of files. The objects come first: without them there is nothing to make.
func setupContent(ctx context.Context, dir string, pod *corev1.Pod, v *corev1.Volume, sources Sources) error {
	files, err := payload(pod, v, sources)
	if err != nil {
		return err
	}
	attr := contentDir(fsGroup(pod))
	if err := makeDir(ctx, dir, attr); err != nil {
		return err
	}
	if inMemory(v) {
		if err := mountMemory("tmpfs", dir, "", attr); err != nil {
			return err
		}
	}
	if _, err = writeFiles(ctx, dir, files, fsGroup(pod)); err != nil {
		return err
	}
	return makeNestedMountpoints(dir, pod, v.Name, files.tree()[""])
}

// inMemory says whether a volume of files is in memory only, as the kubelet has all that may be secret.
func inMemory(v *corev1.Volume) bool { return v.ConfigMap == nil }

// setupEmptyDir makes a directory on disk or in memory. One that exists keeps its content and its owner.
func setupEmptyDir(ctx context.Context, dir string, pod *corev1.Pod, source *corev1.EmptyDirVolumeSource,
	allocatable corev1.ResourceList) error {
	if source == nil {
		source = &corev1.EmptyDirVolumeSource{}
	}
	attr := beneath.Attr{Mode: 0o777}
	if group := fsGroup(pod); group != nil {
		attr = beneath.Attr{Mode: attr.Mode | unix.S_ISGID, Group: group}
	}
	if err := makeDir(ctx, dir, attr); err != nil {
		return err
	}
	switch source.Medium {
	case corev1.StorageMediumDefault:
		return nil
	case corev1.StorageMediumMemory:
		data := ""
		if size := memoryLimit(pod, source, allocatable); size > 0 {
			data = fmt.Sprintf(",size=%d", size)
		}
		// noswap would be better still, but kernels before 6.4 refuse it; the kubelet requires swap to be off or encrypted.
		return mountMemory("tmpfs", dir, data, attr)
	}
	if !hasPages(source.Medium) {
		return fmt.Errorf("the medium %q is not supported", source.Medium)
	}
	size, err := pageSize(pod, source.Medium)
	if err != nil {
		return err
	}
	return mountMemory("hugetlbfs", dir, fmt.Sprintf(",pagesize=%d", size), attr)
}

// memoryLimit is the size of a memory volume in bytes: its own limit, no more than the pod's cgroup may have, nor than the node has.
// Zero means that none of them says anything.
func memoryLimit(pod *corev1.Pod, source *corev1.EmptyDirVolumeSource, allocatable corev1.ResourceList) int64 {
	limit := allocatable.Memory().Value()
	of := kinds.PodLimit(pod, corev1.ResourceMemory)
	if of.Value() > 0 && (limit == 0 || of.Value() < limit) {
		limit = of.Value()
	}
	if own := source.SizeLimit; own != nil && own.Value() > 0 && (limit == 0 || own.Value() < limit) {
		limit = own.Value()
	}
	return limit
}

// makeNestedMountpoints makes the directories in a read-only volume at which the pod mounts other volumes, as the
// runtime cannot. Where the volume shows something, that is the mount point.
func makeNestedMountpoints(dir string, pod *corev1.Pod, volume string, shown map[string]bool) error {
	top, err := beneath.Open(dir)
	if err != nil {
		return err
	}
	defer top.Close()
	for _, mounts := range allMounts(pod) {
		for _, outer := range mounts {
			if outer.Name != volume || outer.SubPath != "" || outer.SubPathExpr != "" {
				continue
			}
			for _, inner := range mounts {
				rel, err := filepath.Rel(outer.MountPath, inner.MountPath)
				if err != nil || rel == "." || hasDotDot(rel) || inner.Name == volume {
					continue
				}
				first, _, _ := strings.Cut(rel, "/")
				if shown[first] || strings.HasPrefix(first, "..") {
					continue
				}
				made, err := top.Make(rel, beneath.Attr{Mode: 0o755})
				if err != nil {
					return fmt.Errorf("cannot make mount point %s: %w", rel, err)
				}
				made.Close()
			}
		}
	}
	return nil
}

func allMounts(pod *corev1.Pod) [][]corev1.VolumeMount {
	var all [][]corev1.VolumeMount
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			all = append(all, list[i].VolumeMounts)
		}
	}
	return all
}

// mountMemory mounts a file system that is in memory alone, with options of its own or none, at dir unless one is there.
func mountMemory(kind, dir, data string, attr beneath.Attr) error {
	mounted, err := isMountpoint(dir)
	if err != nil || mounted {
		return err
	}
	data = fmt.Sprintf("mode=%o", attr.Mode) + data
	if attr.Group != nil {
		data += fmt.Sprintf(",gid=%d", *attr.Group)
	}
	if err := unix.Mount(kind, dir, kind, unix.MS_NOSUID|unix.MS_NODEV, data); err != nil {
		return fmt.Errorf("cannot mount %s at %s: %w", kind, dir, err)
	}
	if err := unix.Chmod(dir, attr.Mode); err != nil { // hugetlbfs' option has no room for the group's bit
		return fmt.Errorf("cannot set the mode of %s: %w", dir, err)
	}
	return nil
}

// isMountpoint says whether another file system than its parent's is mounted at dir.
func isMountpoint(dir string) (bool, error) {
	var own, parent unix.Stat_t
	if err := unix.Lstat(dir, &own); err != nil {
		return false, err
	}
	if err := unix.Lstat(filepath.Dir(dir), &parent); err != nil {
		return false, err
	}
	return own.Dev != parent.Dev, nil
}

// makeDir makes a directory with these attributes, and its parents for root alone; one that is there stays as it is. It
// gets its name when it is ready, so a crash leaves no half of it.
func makeDir(ctx context.Context, dir string, attr beneath.Attr) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o750); err != nil {
		return err
	}
	parent, err := beneath.Open(filepath.Dir(dir))
	if err != nil {
		return err
	}
	defer parent.Close()
	name := filepath.Base(dir)
	if st, err := parent.Stat(name); err == nil {
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return &fs.PathError{Op: "mkdir", Path: dir, Err: unix.ENOTDIR}
		}
		return nil
	}
	unready := ".new-" + name
	if err := parent.RemoveAll(ctx, unready); err != nil {
		return err
	}
	ready, err := parent.Make(unready, attr)
	if err != nil {
		return err
	}
	ready.Close()
	return parent.Rename(unready, name)
}

func fsGroup(pod *corev1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}

func hasDotDot(path string) bool {
	for part := range strings.SplitSeq(path, "/") {
		if part == ".." {
			return true
		}
	}
	return false
}
