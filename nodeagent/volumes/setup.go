package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// hasContent says whether the volume shows files that the cluster states.
func hasContent(v *corev1.Volume) bool {
	return v.ConfigMap != nil || v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil
}

// setup makes one volume.
func (m *Manager) setup(pod *corev1.Pod, v *corev1.Volume, sources Sources) (Mounted, error) {
	dir := m.volumeDir(pod.UID, v.Name)
	switch {
	case v.HostPath != nil:
		return Mounted{HostPath: v.HostPath.Path}, checkHostPath(v.HostPath)
	case v.EmptyDir != nil, v.VolumeSource == (corev1.VolumeSource{}):
		return Mounted{HostPath: dir}, setupEmptyDir(dir, pod, v.EmptyDir, sources.Allocatable)
	case hasContent(v):
		return Mounted{HostPath: dir, ReadOnly: true}, setupContent(dir, pod, v, sources)
	}
	return Mounted{}, errors.New("this kind of volume is not supported")
}

// setupContent makes a volume of files. The objects come first: without them there is nothing to make.
func setupContent(dir string, pod *corev1.Pod, v *corev1.Volume, sources Sources) error {
	files, err := payload(pod, v, sources)
	if err != nil {
		return err
	}
	if err := makeDir(dir, 0o777); err != nil {
		return err
	}
	// What may be secret is in memory only, as the kubelet has it.
	if v.ConfigMap == nil {
		if err := mountMemory(dir, 0, 0o777); err != nil {
			return err
		}
	}
	if err := makeNestedMountpoints(dir, pod, v.Name); err != nil {
		return err
	}
	_, err = writeFiles(dir, files, fsGroup(pod))
	return err
}

// setupEmptyDir makes a directory on disk or in memory. One that exists keeps its content and its owner.
func setupEmptyDir(dir string, pod *corev1.Pod, source *corev1.EmptyDirVolumeSource, allocatable corev1.ResourceList) error {
	if source == nil {
		source = &corev1.EmptyDirVolumeSource{}
	}
	_, err := os.Lstat(dir)
	made := errors.Is(err, fs.ErrNotExist)
	if err := makeDir(dir, 0o777); err != nil {
		return err
	}
	switch source.Medium {
	case corev1.StorageMediumDefault:
	case corev1.StorageMediumMemory:
		mounted, err := isMountpoint(dir)
		if err != nil {
			return err
		}
		made = made || !mounted // empty again, after a reboot
		if err := mountMemory(dir, memoryLimit(pod, source, allocatable), 0o777); err != nil {
			return err
		}
	default:
		return fmt.Errorf("the medium %q is not supported", source.Medium)
	}
	if group := fsGroup(pod); group != nil && made {
		return own(dir, *group, false)
	}
	return nil
}

// memoryLimit is the size of a memory volume in bytes: its own limit, no more than the pod's containers may use
// together, nor than the node has. Zero means that none of them says anything.
func memoryLimit(pod *corev1.Pod, source *corev1.EmptyDirVolumeSource, allocatable corev1.ResourceList) int64 {
	limit := allocatable.Memory().Value()
	var containers int64
	for i := range pod.Spec.Containers {
		memory := pod.Spec.Containers[i].Resources.Limits.Memory().Value()
		if memory == 0 {
			containers = 0
			break
		}
		containers += memory
	}
	if containers > 0 && (limit == 0 || containers < limit) {
		limit = containers
	}
	if own := source.SizeLimit; own != nil && own.Value() > 0 && (limit == 0 || own.Value() < limit) {
		limit = own.Value()
	}
	return limit
}

// checkHostPath checks, or makes, what is on the host.
func checkHostPath(source *corev1.HostPathVolumeSource) error {
	if !filepath.IsAbs(source.Path) || hasDotDot(source.Path) {
		return fmt.Errorf("invalid HostPath `%s`: must be absolute and must not contain '..'", source.Path)
	}
	kind := corev1.HostPathUnset
	if source.Type != nil {
		kind = *source.Type
	}
	info, err := os.Stat(source.Path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	exists := err == nil
	switch kind {
	case corev1.HostPathUnset:
		if !exists { // containerd's CRI plugin makes it so
			return os.MkdirAll(source.Path, 0o755)
		}
		return nil
	case corev1.HostPathDirectoryOrCreate:
		if !exists {
			return os.MkdirAll(source.Path, 0o755)
		}
		kind = corev1.HostPathDirectory
	case corev1.HostPathFileOrCreate:
		if !exists {
			f, err := os.OpenFile(source.Path, os.O_CREATE|os.O_RDONLY, 0o644)
			if err != nil {
				return err
			}
			return f.Close()
		}
		kind = corev1.HostPathFile
	}
	want, known := hostPathTypes[kind]
	if !known {
		return fmt.Errorf("%s is an invalid volume type", kind)
	}
	if !exists || !want.holds(info.Mode()) {
		return fmt.Errorf("hostPath type check failed: %s is not a %s", source.Path, want.name)
	}
	return nil
}

// hostPathTypes are the types that are only checked, with the kubelet's words for them.
var hostPathTypes = map[corev1.HostPathType]struct {
	name  string
	holds func(fs.FileMode) bool
}{
	corev1.HostPathDirectory: {"directory", fs.FileMode.IsDir},
	corev1.HostPathFile:      {"file", fs.FileMode.IsRegular},
	corev1.HostPathSocket:    {"socket file", func(m fs.FileMode) bool { return m&fs.ModeSocket != 0 }},
	corev1.HostPathCharDev:   {"character device", func(m fs.FileMode) bool { return m&fs.ModeCharDevice != 0 }},
	corev1.HostPathBlockDev: {"block device", func(m fs.FileMode) bool {
		return m&fs.ModeDevice != 0 && m&fs.ModeCharDevice == 0
	}},
}

// makeNestedMountpoints makes the directories in a read-only volume at which the pod mounts other volumes, as the
// runtime cannot.
func makeNestedMountpoints(dir string, pod *corev1.Pod, volume string) error {
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
				if first, _, _ := strings.Cut(rel, "/"); strings.HasPrefix(first, "..") {
					continue
				}
				if err := os.MkdirAll(filepath.Join(dir, rel), 0o755); err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, syscall.ENOTDIR) {
					return err
				}
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

// mountMemory mounts a tmpfs at dir unless one is there; size in bytes, zero for the kernel's default.
func mountMemory(dir string, size int64, mode fs.FileMode) error {
	mounted, err := isMountpoint(dir)
	if err != nil || mounted {
		return err
	}
	// noswap would be better still, but kernels before 6.4 refuse it; the kubelet requires swap to be off or encrypted.
	data := fmt.Sprintf("mode=%o", mode)
	if size > 0 {
		data += fmt.Sprintf(",size=%d", size)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, data); err != nil {
		return fmt.Errorf("cannot mount tmpfs at %s: %w", dir, err)
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

// makeDir makes a directory, and its parents for root alone. The mode of one that is made is exact.
func makeDir(dir string, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o750); err != nil {
		return err
	}
	if err := os.Mkdir(dir, mode); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	}
	return os.Chmod(dir, mode)
}

func fsGroup(pod *corev1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}

// own gives everything at and below dir to the group, readable by it (and writable unless readOnly), and makes
// directories pass the group on.
func own(dir string, group int64, readOnly bool) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := os.Lchown(path, -1, int(group)); err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		mode := info.Mode()
		if mode&fs.ModeSymlink != 0 {
			return nil // its mode means nothing, and changing it would change its target's
		}
		mask := fs.FileMode(0o660)
		if readOnly {
			mask = 0o440
		}
		if mode.IsDir() {
			mask |= fs.ModeSetgid | 0o110
		}
		return os.Chmod(path, mode|mask)
	})
}

func diskBytes(info fs.FileInfo) uint64 {
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(sys.Blocks) * 512
	}
	return uint64(info.Size())
}

func hasDotDot(path string) bool {
	for part := range strings.SplitSeq(path, "/") {
		if part == ".." {
			return true
		}
	}
	return false
}
