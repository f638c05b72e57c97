package csi

import (
	"context"
	"errors"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// ErrNoUsage says that a driver does not say what its volumes take.
var ErrNoUsage = errors.New("the driver does not have GET_VOLUME_STATS")

// Usage is what a volume that is published for a pod has and takes, as its driver says it; what that leaves out is zero, as with the
// kubelet.
func (m *Manager) Usage(ctx context.Context, v Volume) (*statsapi.FsStats, error) {
	at := time.Now()
	d, err := m.driver(v.Source.Driver)
	if err != nil {
		return nil, err
	}
	if !d.capable[csipb.NodeServiceCapability_RPC_GET_VOLUME_STATS] {
		return nil, ErrNoUsage
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	answer, err := d.node.NodeGetVolumeStats(ctx, &csipb.NodeGetVolumeStatsRequest{VolumeId: v.Source.VolumeHandle,
		VolumePath: m.dirs.seen(m.dirs.target(v.Pod.UID, v.Name, v.Block))})
	if err != nil {
		return nil, err
	}
	return usage(answer, at)
}

// usage reads a driver's answer. Less than nothing is nothing.
func usage(answer *csipb.NodeGetVolumeStatsResponse, at time.Time) (*statsapi.FsStats, error) {
	if answer.GetUsage() == nil {
		return nil, errors.New("failed to get usage from response. usage is nil")
	}
	out := &statsapi.FsStats{Time: metav1.NewTime(at), AvailableBytes: new(uint64), CapacityBytes: new(uint64), UsedBytes: new(uint64),
		InodesFree: new(uint64), Inodes: new(uint64), InodesUsed: new(uint64)}
	for _, u := range answer.GetUsage() {
		available, total, used := uint64(max(0, u.GetAvailable())), uint64(max(0, u.GetTotal())), uint64(max(0, u.GetUsed()))
		switch u.GetUnit() {
		case csipb.VolumeUsage_BYTES:
			out.AvailableBytes, out.CapacityBytes, out.UsedBytes = &available, &total, &used
		case csipb.VolumeUsage_INODES:
			out.InodesFree, out.Inodes, out.InodesUsed = &available, &total, &used
		}
	}
	return out, nil
}
