package localpath

import (
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Of is what a volume was measured to take last; nil: it was not. Its capacity is the volume's own, and not its file system's.
func (k *Keeper) Of(name string) *statsapi.FsStats {
	k.mu.Lock()
	u, ok := k.uses[name]
	k.mu.Unlock()
	if !ok {
		return nil
	}
	return u.stats(k.left())
}

// Claims are what was measured of the volumes that claims are bound to, by the volumes' names.
func (k *Keeper) Claims() []statsapi.VolumeStats {
	k.mu.Lock()
	uses := k.uses // replaced, never changed
	k.mu.Unlock()
	var out []statsapi.VolumeStats
	left := k.left()
	for name, u := range uses {
		if ref := u.volume.Spec.ClaimRef; ref != nil {
			out = append(out, statsapi.VolumeStats{Name: name, FsStats: *u.stats(left),
				PVCRef: &statsapi.PVCReference{Namespace: ref.Namespace, Name: ref.Name}})
		}
	}
	return out
}

// left is the file system that all volumes share; nil: it cannot be asked.
func (k *Keeper) left() *unix.Statfs_t {
	var fs unix.Statfs_t
	if unix.Statfs(k.opts.Dir, &fs) != nil {
		return nil
	}
	return &fs
}

// stats are a volume's use beside what is left of its file system.
func (u *use) stats(fs *unix.Statfs_t) *statsapi.FsStats {
	size := u.volume.Spec.Capacity[corev1.ResourceStorage]
	capacity, used, inodes := uint64(max(0, size.Value())), u.size.Bytes, u.size.Inodes
	out := &statsapi.FsStats{Time: metav1.NewTime(u.at), CapacityBytes: &capacity, UsedBytes: &used, InodesUsed: &inodes}
	if fs != nil {
		available := min(capacity-min(used, capacity), fs.Bavail*uint64(fs.Bsize))
		all, free := fs.Files, fs.Ffree
		out.AvailableBytes, out.Inodes, out.InodesFree = &available, &all, &free
	}
	return out
}
