package localpath

import (
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

func described(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("kubelet_volume_stats_"+name, help, []string{"namespace", "persistentvolumeclaim"}, nil)
}

// The kubelet's names and words (https://kubernetes.io/docs/reference/instrumentation/metrics). A capacity is the volume's own, as
// where a quota holds it to that, and not its file system's.
var (
	descCapacity   = described("capacity_bytes", "Capacity in bytes of the volume")
	descAvailable  = described("available_bytes", "Number of available bytes in the volume")
	descUsed       = described("used_bytes", "Number of used bytes in the volume")
	descInodesFree = described("inodes_free", "Number of free inodes in the volume")
	descInodesUsed = described("inodes_used", "Number of used inodes in the volume")
)

// Describe implements prometheus.Collector.
func (k *Keeper) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descCapacity, descAvailable, descUsed, descInodesFree, descInodesUsed} {
		out <- d
	}
}

// Collect implements prometheus.Collector: it tells what was measured last.
func (k *Keeper) Collect(out chan<- prometheus.Metric) {
	k.mu.Lock()
	uses := k.uses // replaced, never changed
	k.mu.Unlock()
	var fs unix.Statfs_t
	left := unix.Statfs(k.opts.Dir, &fs) == nil
	for _, u := range uses {
		ref := u.volume.Spec.ClaimRef
		if ref == nil {
			continue
		}
		gauge := func(d *prometheus.Desc, value float64) {
			out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, ref.Namespace, ref.Name)
		}
		size := u.volume.Spec.Capacity[corev1.ResourceStorage]
		capacity, used := float64(size.Value()), float64(u.size.Bytes)
		gauge(descCapacity, capacity)
		gauge(descUsed, used)
		gauge(descInodesUsed, float64(u.size.Inodes))
		if left {
			gauge(descAvailable, max(0, min(capacity-used, float64(fs.Bavail)*float64(fs.Bsize))))
			gauge(descInodesFree, float64(fs.Ffree))
		}
	}
}
