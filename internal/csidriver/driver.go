// Package csidriver is a small CSI driver for tests: its volumes are directories of a disk that all nodes share.
package csidriver

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// slow is how long a call takes that is told to be slow.
const slow = 5 * time.Second

// Topology is the label of nodes that have the driver.
const Topology = "topology.csi.example.org/node"

// Options are what a driver is.
type Options struct {
	// Name is the driver's, and Node the node's that it runs on.
	Name, Node string
	// Dir is on the shared disk. It has volumes, nodes, faults and calls.
	Dir string
	// Most is how many volumes a node takes; zero: any number.
	Most int64
	// Attach says that volumes are attached before they are mounted.
	Attach bool
	// Controller and NodeService say which services it has beside identity.
	Controller, NodeService bool
}

// Driver is one process of the driver. What it is told to do wrong is in the file faults of its directory, lines of
// `METHOD hang|fail|slow`; what it was called, in the file calls, a method a line.
type Driver struct {
	opts Options
	mu   sync.Mutex
	csipb.UnimplementedIdentityServer
	csipb.UnimplementedControllerServer
	csipb.UnimplementedNodeServer
}

// New makes the driver's directories.
func New(o Options) (*Driver, error) {
	for _, dir := range []string{"volumes", "nodes"} {
		if err := os.MkdirAll(filepath.Join(o.Dir, dir), 0o755); err != nil {
			return nil, err
		}
	}
	if o.NodeService {
		if err := os.WriteFile(filepath.Join(o.Dir, "nodes", o.Node), nil, 0o644); err != nil {
			return nil, err
		}
	}
	return &Driver{opts: o}, nil
}

// Serve serves a listener until ctx ends.
func (d *Driver) Serve(ctx context.Context, l net.Listener) error {
	s := grpc.NewServer(grpc.UnaryInterceptor(d.intercept))
	csipb.RegisterIdentityServer(s, d)
	if d.opts.Controller {
		csipb.RegisterControllerServer(s, d)
	}
	if d.opts.NodeService {
		csipb.RegisterNodeServer(s, d)
	}
	stop := context.AfterFunc(ctx, s.Stop)
	defer stop()
	if err := s.Serve(l); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// Listen listens at a unix socket, in the place of one that an earlier process has left.
func Listen(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return net.Listen("unix", path)
}

// intercept counts a call, and does to it what it was told to.
func (d *Driver) intercept(ctx context.Context, request any, info *grpc.UnaryServerInfo, do grpc.UnaryHandler) (any, error) {
	method := info.FullMethod[strings.LastIndexByte(info.FullMethod, '/')+1:]
	d.note(method, request)
	for _, line := range d.lines("faults") {
		of, what, _ := strings.Cut(line, " ")
		if of != method {
			continue
		}
		switch what {
		case "hang":
			<-ctx.Done()
			return nil, status.FromContextError(ctx.Err()).Err()
		case "fail":
			return nil, status.Error(codes.Internal, method+" was told to fail")
		case "slow":
			select {
			case <-ctx.Done():
				return nil, status.FromContextError(ctx.Err()).Err()
			case <-time.After(slow):
			}
		}
	}
	return do(ctx, request)
}

// note adds a line to the calls: the method, the node, and the volume where it is of one.
func (d *Driver) note(method string, request any) {
	line := method + " " + d.opts.Node
	if of, ok := request.(interface{ GetVolumeId() string }); ok {
		line += " " + of.GetVolumeId()
	}
	f, err := os.OpenFile(filepath.Join(d.opts.Dir, "calls"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return
	}
	defer f.Close()
	_, _ = fmt.Fprintln(f, line)
}

func (d *Driver) lines(file string) []string {
	data, err := os.ReadFile(filepath.Join(d.opts.Dir, file))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

// volume is what is kept of one.
type volume struct {
	ID       string
	Name     string
	Capacity int64
	// Nodes are those that it is attached to, with whether it is so for reading alone.
	Nodes map[string]bool
}

func (d *Driver) dir(id string) string {
	return filepath.Join(d.opts.Dir, "volumes", filepath.Base(id))
}

// Data is where a volume's files are.
func (d *Driver) Data(id string) string { return filepath.Join(d.dir(id), "data") }

func (d *Driver) load(id string) (*volume, error) {
	data, err := os.ReadFile(filepath.Join(d.dir(id), "volume.json"))
	if err != nil {
		return nil, status.Errorf(codes.NotFound, "there is no volume %s", id)
	}
	v := &volume{}
	if err := json.Unmarshal(data, v); err != nil {
		return nil, err
	}
	if v.Nodes == nil {
		v.Nodes = map[string]bool{}
	}
	return v, nil
}

func (d *Driver) save(v *volume) error {
	if err := os.MkdirAll(d.Data(v.ID), 0o777); err != nil {
		return err
	}
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	next := filepath.Join(d.dir(v.ID), ".volume.json")
	if err := os.WriteFile(next, data, 0o644); err != nil {
		return err
	}
	return os.Rename(next, filepath.Join(d.dir(v.ID), "volume.json"))
}

// GetPluginInfo implements csi.IdentityServer.
func (d *Driver) GetPluginInfo(context.Context, *csipb.GetPluginInfoRequest) (*csipb.GetPluginInfoResponse, error) {
	return &csipb.GetPluginInfoResponse{Name: d.opts.Name, VendorVersion: "1"}, nil
}

// GetPluginCapabilities implements csi.IdentityServer.
func (d *Driver) GetPluginCapabilities(context.Context, *csipb.GetPluginCapabilitiesRequest) (
	*csipb.GetPluginCapabilitiesResponse, error,
) {
	out := &csipb.GetPluginCapabilitiesResponse{}
	if d.opts.Controller {
		out.Capabilities = append(out.Capabilities, &csipb.PluginCapability{Type: &csipb.PluginCapability_Service_{
			Service: &csipb.PluginCapability_Service{Type: csipb.PluginCapability_Service_CONTROLLER_SERVICE}}},
			&csipb.PluginCapability{Type: &csipb.PluginCapability_VolumeExpansion_{
				VolumeExpansion: &csipb.PluginCapability_VolumeExpansion{Type: csipb.PluginCapability_VolumeExpansion_ONLINE}}})
	}
	return out, nil
}

// Probe implements csi.IdentityServer.
func (d *Driver) Probe(context.Context, *csipb.ProbeRequest) (*csipb.ProbeResponse, error) {
	return &csipb.ProbeResponse{}, nil
}

// ControllerGetCapabilities implements csi.ControllerServer.
func (d *Driver) ControllerGetCapabilities(context.Context, *csipb.ControllerGetCapabilitiesRequest) (
	*csipb.ControllerGetCapabilitiesResponse, error,
) {
	out := &csipb.ControllerGetCapabilitiesResponse{}
	can := []csipb.ControllerServiceCapability_RPC_Type{csipb.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csipb.ControllerServiceCapability_RPC_EXPAND_VOLUME, csipb.ControllerServiceCapability_RPC_GET_CAPACITY}
	if d.opts.Attach {
		can = append(can, csipb.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME)
	}
	for _, t := range can {
		out.Capabilities = append(out.Capabilities, &csipb.ControllerServiceCapability{Type: &csipb.ControllerServiceCapability_Rpc{
			Rpc: &csipb.ControllerServiceCapability_RPC{Type: t}}})
	}
	return out, nil
}

// room is what a node's disk is said to have.
const room = 100 << 30

// GetCapacity implements csi.ControllerServer.
func (d *Driver) GetCapacity(context.Context, *csipb.GetCapacityRequest) (*csipb.GetCapacityResponse, error) {
	return &csipb.GetCapacityResponse{AvailableCapacity: room}, nil
}

// CreateVolume implements csi.ControllerServer.
func (d *Driver) CreateVolume(_ context.Context, r *csipb.CreateVolumeRequest) (*csipb.CreateVolumeResponse, error) {
	if r.GetName() == "" || len(r.GetVolumeCapabilities()) == 0 {
		return nil, status.Error(codes.InvalidArgument, "a volume needs a name and capabilities")
	}
	if len(r.GetName()) > 128 {
		return nil, status.Error(codes.InvalidArgument, "the name has more than 128 bytes")
	}
	size := r.GetCapacityRange().GetRequiredBytes()
	if size > room {
		return nil, status.Errorf(codes.OutOfRange, "there is room for %d bytes", room)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	id := fmt.Sprintf("vol-%x", sha256.Sum256([]byte(r.GetName())))[:20]
	v, err := d.load(id)
	if err == nil {
		limit := r.GetCapacityRange().GetLimitBytes()
		if v.Capacity < size || limit > 0 && v.Capacity > limit {
			return nil, status.Errorf(codes.AlreadyExists, "volume %s has %d bytes", r.GetName(), v.Capacity)
		}
	} else {
		v = &volume{ID: id, Name: r.GetName(), Capacity: size, Nodes: map[string]bool{}}
		if err := d.save(v); err != nil {
			return nil, err
		}
	}
	return &csipb.CreateVolumeResponse{Volume: &csipb.Volume{VolumeId: id, CapacityBytes: v.Capacity,
		VolumeContext: r.GetParameters()}}, nil
}

// DeleteVolume implements csi.ControllerServer.
func (d *Driver) DeleteVolume(_ context.Context, r *csipb.DeleteVolumeRequest) (*csipb.DeleteVolumeResponse, error) {
	if r.GetVolumeId() == "" {
		return nil, status.Error(codes.InvalidArgument, "no volume is named")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if v, err := d.load(r.GetVolumeId()); err == nil && len(v.Nodes) > 0 {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %s is attached", v.ID)
	}
	return &csipb.DeleteVolumeResponse{}, os.RemoveAll(d.dir(r.GetVolumeId()))
}

// ControllerPublishVolume implements csi.ControllerServer.
func (d *Driver) ControllerPublishVolume(_ context.Context, r *csipb.ControllerPublishVolumeRequest) (
	*csipb.ControllerPublishVolumeResponse, error,
) {
	if r.GetVolumeId() == "" || r.GetNodeId() == "" || r.GetVolumeCapability() == nil {
		return nil, status.Error(codes.InvalidArgument, "a volume, a node and a capability are needed")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	v, err := d.load(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(d.opts.Dir, "nodes", filepath.Base(r.GetNodeId()))); err != nil {
		return nil, status.Errorf(codes.NotFound, "there is no node %s", r.GetNodeId())
	}
	if readOnly, ok := v.Nodes[r.GetNodeId()]; ok && readOnly != r.GetReadonly() {
		return nil, status.Errorf(codes.AlreadyExists, "volume %s is attached to node %s in another way", v.ID, r.GetNodeId())
	}
	for node := range v.Nodes {
		if node != r.GetNodeId() && !several(r.GetVolumeCapability()) {
			return nil, status.Errorf(codes.FailedPrecondition, "volume %s is attached to node %s", v.ID, node)
		}
	}
	v.Nodes[r.GetNodeId()] = r.GetReadonly()
	return &csipb.ControllerPublishVolumeResponse{PublishContext: map[string]string{"attached": r.GetNodeId()}}, d.save(v)
}

// several says whether a capability is of several nodes.
func several(c *csipb.VolumeCapability) bool {
	return slices.Contains([]csipb.VolumeCapability_AccessMode_Mode{
		csipb.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER, csipb.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY,
		csipb.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER,
	}, c.GetAccessMode().GetMode())
}

// ControllerUnpublishVolume implements csi.ControllerServer.
func (d *Driver) ControllerUnpublishVolume(_ context.Context, r *csipb.ControllerUnpublishVolumeRequest) (
	*csipb.ControllerUnpublishVolumeResponse, error,
) {
	if r.GetVolumeId() == "" {
		return nil, status.Error(codes.InvalidArgument, "no volume is named")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	v, err := d.load(r.GetVolumeId())
	if err != nil {
		return &csipb.ControllerUnpublishVolumeResponse{}, nil //nolint:nilerr // what is not there is not attached
	}
	if r.GetNodeId() == "" {
		v.Nodes = nil
	}
	delete(v.Nodes, r.GetNodeId())
	return &csipb.ControllerUnpublishVolumeResponse{}, d.save(v)
}

// ValidateVolumeCapabilities implements csi.ControllerServer.
func (d *Driver) ValidateVolumeCapabilities(_ context.Context, r *csipb.ValidateVolumeCapabilitiesRequest) (
	*csipb.ValidateVolumeCapabilitiesResponse, error,
) {
	if r.GetVolumeId() == "" || len(r.GetVolumeCapabilities()) == 0 {
		return nil, status.Error(codes.InvalidArgument, "a volume and capabilities are needed")
	}
	if _, err := d.load(r.GetVolumeId()); err != nil {
		return nil, err
	}
	return &csipb.ValidateVolumeCapabilitiesResponse{Confirmed: &csipb.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeCapabilities: r.GetVolumeCapabilities()}}, nil
}

// ControllerExpandVolume implements csi.ControllerServer.
func (d *Driver) ControllerExpandVolume(_ context.Context, r *csipb.ControllerExpandVolumeRequest) (
	*csipb.ControllerExpandVolumeResponse, error,
) {
	if r.GetVolumeId() == "" || r.GetCapacityRange() == nil {
		return nil, status.Error(codes.InvalidArgument, "a volume and a capacity are needed")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	v, err := d.load(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	v.Capacity = max(v.Capacity, r.GetCapacityRange().GetRequiredBytes())
	return &csipb.ControllerExpandVolumeResponse{CapacityBytes: v.Capacity, NodeExpansionRequired: true}, d.save(v)
}
