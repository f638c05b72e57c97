package csi

import (
	"context"
	"fmt"
	"path/filepath"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
)

// Grow has a volume that is published for a pod made as large on this node as it is elsewhere, in bytes. Where its driver has nothing
// to do for that, it is done. It may be called again.
func (m *Manager) Grow(ctx context.Context, v Volume, bytes int64) error {
	target := m.dirs.target(v.Pod.UID, v.Name, v.Block)
	unlock, err := m.lock(ctx, target)
	if err != nil {
		return err
	}
	defer unlock()
	r, ok, err := load(filepath.Join(m.dirs.volumes(v.Pod.UID), v.Name))
	if err != nil {
		return err
	}
	if !ok || r.Step != published {
		return fmt.Errorf("volume %s is not mounted", v.Name)
	}
	d, err := m.driver(v.Source.Driver)
	if err != nil || !d.capable[csipb.NodeServiceCapability_RPC_EXPAND_VOLUME] {
		return err
	}
	secrets, err := m.secrets(ctx, v.Source.NodeExpandSecretRef)
	if err != nil {
		return fmt.Errorf("fetching NodeExpandSecretRef %s/%s failed: %w", v.Source.NodeExpandSecretRef.Namespace,
			v.Source.NodeExpandSecretRef.Name, err)
	}
	request := &csipb.NodeExpandVolumeRequest{VolumeId: v.Source.VolumeHandle, VolumePath: m.dirs.seen(target),
		CapacityRange: &csipb.CapacityRange{RequiredBytes: bytes}, VolumeCapability: d.capability(&v), Secrets: secrets}
	if d.stages() {
		request.StagingTargetPath = m.dirs.seen(m.dirs.stagingPath(v.Source.Driver, v.Source.VolumeHandle, v.Name, v.Block))
	}
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	_, err = d.node.NodeExpandVolume(bounded, request)
	return err
}
