package csidriver

import (
	"context"
	"errors"
	"os"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// NodeGetCapabilities implements csi.NodeServer.
func (d *Driver) NodeGetCapabilities(context.Context, *csipb.NodeGetCapabilitiesRequest) (*csipb.NodeGetCapabilitiesResponse, error) {
	out := &csipb.NodeGetCapabilitiesResponse{}
	for _, t := range []csipb.NodeServiceCapability_RPC_Type{csipb.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
		csipb.NodeServiceCapability_RPC_GET_VOLUME_STATS, csipb.NodeServiceCapability_RPC_EXPAND_VOLUME} {
		out.Capabilities = append(out.Capabilities, &csipb.NodeServiceCapability{Type: &csipb.NodeServiceCapability_Rpc{
			Rpc: &csipb.NodeServiceCapability_RPC{Type: t}}})
	}
	return out, nil
}

// NodeGetInfo implements csi.NodeServer.
func (d *Driver) NodeGetInfo(context.Context, *csipb.NodeGetInfoRequest) (*csipb.NodeGetInfoResponse, error) {
	return &csipb.NodeGetInfoResponse{NodeId: d.opts.Node, MaxVolumesPerNode: d.opts.Most,
		AccessibleTopology: &csipb.Topology{Segments: map[string]string{Topology: d.opts.Node}}}, nil
}

// NodeStageVolume implements csi.NodeServer.
func (d *Driver) NodeStageVolume(_ context.Context, r *csipb.NodeStageVolumeRequest) (*csipb.NodeStageVolumeResponse, error) {
	if r.GetVolumeId() == "" || r.GetStagingTargetPath() == "" || r.GetVolumeCapability() == nil {
		return nil, status.Error(codes.InvalidArgument, "a volume, a path and a capability are needed")
	}
	v, err := d.load(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if _, ok := v.Nodes[d.opts.Node]; d.opts.Attach && (!ok || r.GetPublishContext()["attached"] != d.opts.Node) {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %s is not attached to node %s", v.ID, d.opts.Node)
	}
	return &csipb.NodeStageVolumeResponse{}, bind(d.Data(v.ID), r.GetStagingTargetPath(), false)
}

// NodeUnstageVolume implements csi.NodeServer.
func (d *Driver) NodeUnstageVolume(_ context.Context, r *csipb.NodeUnstageVolumeRequest) (*csipb.NodeUnstageVolumeResponse, error) {
	if r.GetVolumeId() == "" || r.GetStagingTargetPath() == "" {
		return nil, status.Error(codes.InvalidArgument, "a volume and a path are needed")
	}
	return &csipb.NodeUnstageVolumeResponse{}, unbind(r.GetStagingTargetPath(), false)
}

// NodePublishVolume implements csi.NodeServer. A volume that was never made, and is for one pod, is a tmpfs.
func (d *Driver) NodePublishVolume(_ context.Context, r *csipb.NodePublishVolumeRequest) (*csipb.NodePublishVolumeResponse, error) {
	if r.GetVolumeId() == "" || r.GetTargetPath() == "" || r.GetVolumeCapability() == nil {
		return nil, status.Error(codes.InvalidArgument, "a volume, a path and a capability are needed")
	}
	if r.GetVolumeContext()["csi.storage.k8s.io/ephemeral"] == "true" {
		return &csipb.NodePublishVolumeResponse{}, memory(r.GetTargetPath(), r.GetVolumeContext())
	}
	v, err := d.load(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if r.GetStagingTargetPath() == "" {
		return nil, status.Error(codes.FailedPrecondition, "no staging path is given")
	}
	if staged, err := mountinfo.Mounted(r.GetStagingTargetPath()); err != nil || !staged {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %s is not staged", v.ID)
	}
	return &csipb.NodePublishVolumeResponse{}, bind(r.GetStagingTargetPath(), r.GetTargetPath(), r.GetReadonly())
}

// NodeUnpublishVolume implements csi.NodeServer.
func (d *Driver) NodeUnpublishVolume(_ context.Context, r *csipb.NodeUnpublishVolumeRequest) (*csipb.NodeUnpublishVolumeResponse, error) {
	if r.GetVolumeId() == "" || r.GetTargetPath() == "" {
		return nil, status.Error(codes.InvalidArgument, "a volume and a path are needed")
	}
	return &csipb.NodeUnpublishVolumeResponse{}, unbind(r.GetTargetPath(), true)
}

// NodeGetVolumeStats implements csi.NodeServer.
func (d *Driver) NodeGetVolumeStats(_ context.Context, r *csipb.NodeGetVolumeStatsRequest) (*csipb.NodeGetVolumeStatsResponse, error) {
	if r.GetVolumeId() == "" || r.GetVolumePath() == "" {
		return nil, status.Error(codes.InvalidArgument, "a volume and a path are needed")
	}
	v, err := d.load(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(r.GetVolumePath()); err != nil {
		return nil, status.Errorf(codes.NotFound, "nothing is at %s", r.GetVolumePath())
	}
	return &csipb.NodeGetVolumeStatsResponse{Usage: []*csipb.VolumeUsage{
		{Unit: csipb.VolumeUsage_BYTES, Total: v.Capacity, Used: 4096, Available: max(0, v.Capacity-4096)},
		{Unit: csipb.VolumeUsage_INODES, Total: 1000, Used: 1, Available: 999}}}, nil
}

// NodeExpandVolume implements csi.NodeServer.
func (d *Driver) NodeExpandVolume(_ context.Context, r *csipb.NodeExpandVolumeRequest) (*csipb.NodeExpandVolumeResponse, error) {
	if r.GetVolumeId() == "" || r.GetVolumePath() == "" {
		return nil, status.Error(codes.InvalidArgument, "a volume and a path are needed")
	}
	v, err := d.load(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(r.GetVolumePath()); err != nil {
		return nil, status.Errorf(codes.NotFound, "nothing is at %s", r.GetVolumePath())
	}
	return &csipb.NodeExpandVolumeResponse{CapacityBytes: v.Capacity}, nil
}

// bind mounts a directory at another one, unless something is mounted there.
func bind(from, at string, readOnly bool) error {
	if err := os.MkdirAll(at, 0o750); err != nil {
		return err
	}
	if mounted, err := mountinfo.Mounted(at); err != nil || mounted {
		return err
	}
	if err := unix.Mount(from, at, "", unix.MS_BIND, ""); err != nil || !readOnly {
		return err
	}
	return unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
}

// memory mounts a tmpfs that has the attributes of its volume as files.
func memory(at string, attributes map[string]string) error {
	if err := os.MkdirAll(at, 0o750); err != nil {
		return err
	}
	if mounted, err := mountinfo.Mounted(at); err != nil || mounted {
		return err
	}
	if err := unix.Mount("csi", at, "tmpfs", 0, "size=1m,mode=777"); err != nil {
		return err
	}
	for name, value := range attributes {
		if err := os.WriteFile(at+"/"+keyName(name), []byte(value), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// keyName is the last part of an attribute's name.
func keyName(name string) string {
	for i := len(name) - 1; i >= 0; i-- {
		if name[i] == '/' {
			return name[i+1:]
		}
	}
	return name
}

// unbind unmounts what is mounted at a path, and removes that where it is the driver's.
func unbind(at string, remove bool) error {
	if err := unix.Unmount(at, unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return status.Errorf(codes.Internal, "cannot unmount %s: %v", at, err)
	}
	if !remove {
		return nil
	}
	if err := os.Remove(at); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
