package pods

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helpers "k8s.io/component-helpers/resource"
)

// Storage is what a pod takes of the node's disk, in bytes.
type Storage struct {
	// Volumes are the emptyDir volumes on disk, by name.
	Volumes map[string]int64
	// Containers are the containers' own writes, logs and termination
	// messages, by name.
	Containers map[string]int64
	// Files are those that the node makes for the pod and containers can write
	// to, by the path at which they see them.
	Files map[string]int64
}

// MaxFile is what a file that the node makes for a pod may take, whatever the
// pod limits: more than a pod's hostAliases fill, since an object has 1.5 MiB.
const MaxFile = 4 << 20

// LimitsStorage says whether the pod limits what it takes of the disk.
func LimitsStorage(pod *corev1.Pod) bool {
	if _, ok := helpers.PodLimits(pod, helpers.PodResourcesOptions{})[corev1.ResourceEphemeralStorage]; ok {
		return true
	}
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return onDisk(&v) && v.EmptyDir.SizeLimit != nil }) ||
		slices.ContainsFunc(pod.Spec.Containers, func(c corev1.Container) bool { return !c.Resources.Limits.StorageEphemeral().IsZero() })
}

func onDisk(v *corev1.Volume) bool {
	return v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumDefault
}

// Overuse says why a pod is evicted for what it takes of the disk, in the
// kubelet's words and order; empty if it stays within its limits.
func Overuse(pod *corev1.Pod, s Storage) string {
	total := int64(0)
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if !onDisk(v) {
			continue
		}
		used := s.Volumes[v.Name]
		total += used
		if limit := v.EmptyDir.SizeLimit; limit != nil && limit.Sign() > 0 && limit.CmpInt64(used) < 0 {
			return fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, limit)
		}
	}
	for _, used := range s.Containers {
		total += used
	}
	for _, path := range slices.Sorted(maps.Keys(s.Files)) {
		total += s.Files[path]
		if s.Files[path] > MaxFile {
			return fmt.Sprintf("Usage of file %q exceeds the limit %q. ", path, resource.NewQuantity(MaxFile, resource.BinarySI))
		}
	}
	limit, ok := helpers.PodLimits(pod, helpers.PodResourcesOptions{})[corev1.ResourceEphemeralStorage]
	if ok && limit.CmpInt64(total) < 0 {
		return fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", &limit)
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		if limit := c.Resources.Limits.StorageEphemeral(); !limit.IsZero() && limit.CmpInt64(s.Containers[c.Name]) < 0 {
			return fmt.Sprintf("Container %s exceeded its local ephemeral storage limit %q. ", c.Name, limit)
		}
	}
	return ""
}
