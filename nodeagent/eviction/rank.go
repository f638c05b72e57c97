package eviction

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helpers "k8s.io/component-helpers/resource"
	scheduling "k8s.io/component-helpers/scheduling/corev1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Pod is one that runs on the node, with what it uses; one without Stats could not be measured, and goes before all that
// could.
type Pod struct {
	Object *corev1.Pod
	Stats  *statsapi.PodStats
}

// Rank sorts pods by who goes first for a signal. oneDisk says that images and layers are on the same file system as
// volumes and logs. Of pods that are alike the youngest goes first, which has done the least.
func Rank(pods []Pod, s Signal, oneDisk bool) {
	use := func(p *Pod) int64 { return 0 }
	request := corev1.ResourceName("")
	switch s.Resource() {
	case corev1.ResourceMemory:
		request, use = corev1.ResourceMemory, func(p *Pod) int64 { return int64(memory(p.Stats.Memory)) }
	case corev1.ResourceEphemeralStorage:
		request = corev1.ResourceEphemeralStorage
		use = func(p *Pod) int64 { bytes, _ := disk(p, s, oneDisk); return bytes }
	case inodes:
		use = func(p *Pod) int64 { _, n := disk(p, s, oneDisk); return n }
	case pids:
		use = func(p *Pod) int64 {
			if p.Stats.ProcessStats == nil || p.Stats.ProcessStats.ProcessCount == nil {
				return 0
			}
			return int64(*p.Stats.ProcessStats.ProcessCount)
		}
	}
	type ranked struct {
		Pod
		exceeds  bool
		priority int32
		over     int64 // what it uses beyond what it asked for
	}
	all := make([]ranked, len(pods))
	for i, p := range pods {
		r := ranked{Pod: p, priority: scheduling.PodPriority(p.Object)}
		if p.Stats != nil {
			asked := requested(p.Object, request)
			r.over = use(&p) - asked
			r.exceeds = s.Resource() != pids && r.over > 0
		}
		all[i] = r
	}
	slices.SortStableFunc(all, func(a, b ranked) int {
		return cmp.Or(
			first(a.Stats == nil && s.Resource() != pids, b.Stats == nil && s.Resource() != pids),
			first(a.exceeds, b.exceeds),
			cmp.Compare(a.priority, b.priority),
			first(a.Stats == nil, b.Stats == nil),
			cmp.Compare(b.over, a.over),
			b.Object.CreationTimestamp.Compare(a.Object.CreationTimestamp.Time),
			cmp.Compare(a.Object.UID, b.Object.UID),
		)
	})
	for i := range all {
		pods[i] = all[i].Pod
	}
}

// requested is what a pod has asked for; nothing of what has no name.
func requested(pod *corev1.Pod, name corev1.ResourceName) int64 {
	if name == "" {
		return 0
	}
	asked := helpers.PodRequests(pod, helpers.PodResourcesOptions{ExcludeOverhead: true,
		SkipContainerLevelResources: helpers.IsPodLevelResourcesSet(pod)})[name]
	if over := pod.Spec.Overhead[name]; !asked.IsZero() {
		asked.Add(over)
	}
	return asked.Value()
}

func memory(m *statsapi.MemoryStats) uint64 {
	if m == nil || m.WorkingSetBytes == nil {
		return 0
	}
	return *m.WorkingSetBytes
}

// disk is what a pod takes of the file system that a signal is about.
func disk(p *Pod, s Signal, oneDisk bool) (bytes, files int64) {
	add := func(fs *statsapi.FsStats) {
		if fs != nil && fs.UsedBytes != nil {
			bytes += int64(*fs.UsedBytes)
		}
		if fs != nil && fs.InodesUsed != nil {
			files += int64(*fs.InodesUsed)
		}
	}
	images := s == ImageFSAvailable || s == ImageFSInodesFree
	for i := range p.Stats.Containers {
		c := &p.Stats.Containers[i]
		if oneDisk || images {
			add(c.Rootfs)
		}
		if oneDisk || !images {
			add(c.Logs)
		}
	}
	if oneDisk || !images {
		for i := range p.Stats.VolumeStats {
			v := &p.Stats.VolumeStats[i]
			if slices.ContainsFunc(p.Object.Spec.Volumes, func(o corev1.Volume) bool { return o.Name == v.Name && local(&o) }) {
				add(&v.FsStats)
			}
		}
	}
	return bytes, files
}

// local says whether a volume counts as the pod's use of the node's disk.
func local(v *corev1.Volume) bool {
	return v.HostPath != nil || v.ConfigMap != nil || v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumDefault
}

// Message says why a pod goes. shortages are those of the outlook; the first is the one it goes for.
func Message(p *Pod, shortages []Shortage) string {
	short := &shortages[0]
	of := short.Signal.Resource()
	below := short.Below.of(short.Level.Capacity)
	var b strings.Builder
	fmt.Fprintf(&b, "The node was low on resource: %s. Threshold quantity: %s, available: %s. ", of, &below, &short.Level.Available)
	if p.Stats == nil {
		return b.String()
	}
	exceeds := func(what, name string, used uint64, asked resource.Quantity) {
		if use := resource.NewQuantity(int64(used), resource.BinarySI); use.Cmp(asked) > 0 || what == "Pod" {
			fmt.Fprintf(&b, "%s %s was using %s, request is %s, has larger consumption of %s. ", what, name, use, &asked, of)
		}
	}
	if r := p.Object.Spec.Resources; of == corev1.ResourceMemory && r != nil && p.Stats.Memory != nil {
		if asked, ok := r.Requests[of]; ok {
			exceeds("Pod", p.Object.Name, memory(p.Stats.Memory), asked)
		}
	}
	for i := range p.Stats.Containers {
		c := &p.Stats.Containers[i]
		asked, known := containerRequest(p.Object, c.Name, of)
		if !known {
			continue
		}
		measured := func(fs *statsapi.FsStats) bool { return fs != nil && fs.UsedBytes != nil }
		switch {
		case of == corev1.ResourceMemory && c.Memory != nil && c.Memory.WorkingSetBytes != nil:
			exceeds("Container", c.Name, memory(c.Memory), asked)
		case of == corev1.ResourceEphemeralStorage && measured(c.Rootfs) && measured(c.Logs):
			exceeds("Container", c.Name, *c.Rootfs.UsedBytes+*c.Logs.UsedBytes, asked)
		}
	}
	return b.String()
}

func containerRequest(pod *corev1.Pod, name string, of corev1.ResourceName) (resource.Quantity, bool) {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return list[i].Resources.Requests[of], true
			}
		}
	}
	return resource.Quantity{}, false
}
