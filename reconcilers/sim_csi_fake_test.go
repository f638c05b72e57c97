package reconcilers

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// csiDisk is a volume of a fake driver.
type csiDisk struct {
	name  string
	bytes int64
	on    map[string]bool // the nodes that it is attached to
}

// csiFake is a driver whose controller is reached over connections in memory, as CSI has it: each call may be made again.
type csiFake struct {
	csipb.UnimplementedIdentityServer
	csipb.UnimplementedControllerServer
	name string
	can  []csipb.ControllerServiceCapability_RPC_Type

	mu     sync.Mutex
	disks  map[string]*csiDisk // by id
	calls  []string
	wrong  []string          // what no driver may be asked
	secret map[string]string // of the last CreateVolume
	order  *csipb.CreateVolumeRequest
	// fault is asked at each call: before is its error though nothing is done, after one though all is.
	fault func(ctx context.Context, call string) (before, after error)

	server    *grpc.Server
	listeners []net.Listener
}

func newCSIFake(name string) *csiFake {
	return &csiFake{name: name, disks: map[string]*csiDisk{}, can: []csipb.ControllerServiceCapability_RPC_Type{
		csipb.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME, csipb.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME,
		csipb.ControllerServiceCapability_RPC_EXPAND_VOLUME, csipb.ControllerServiceCapability_RPC_GET_CAPACITY,
	}}
}

// begin notes a call and does it, with faults.
func (f *csiFake) begin(ctx context.Context, call string, do func() error) error {
	f.mu.Lock()
	f.calls = append(f.calls, call)
	fault := f.fault
	f.mu.Unlock()
	var before, after error
	if fault != nil {
		before, after = fault(ctx, call)
	}
	if before != nil {
		return before
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := do(); err != nil {
		return err
	}
	return after
}

func (f *csiFake) GetPluginInfo(context.Context, *csipb.GetPluginInfoRequest) (*csipb.GetPluginInfoResponse, error) {
	return &csipb.GetPluginInfoResponse{Name: f.name}, nil
}

func (f *csiFake) GetPluginCapabilities(context.Context, *csipb.GetPluginCapabilitiesRequest) (
	*csipb.GetPluginCapabilitiesResponse, error) {
	service := func(t csipb.PluginCapability_Service_Type) *csipb.PluginCapability {
		return &csipb.PluginCapability{Type: &csipb.PluginCapability_Service_{Service: &csipb.PluginCapability_Service{Type: t}}}
	}
	return &csipb.GetPluginCapabilitiesResponse{Capabilities: []*csipb.PluginCapability{
		service(csipb.PluginCapability_Service_CONTROLLER_SERVICE),
		service(csipb.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS),
		{Type: &csipb.PluginCapability_VolumeExpansion_{VolumeExpansion: &csipb.PluginCapability_VolumeExpansion{
			Type: csipb.PluginCapability_VolumeExpansion_ONLINE}}},
	}}, nil
}

func (f *csiFake) ControllerGetCapabilities(context.Context, *csipb.ControllerGetCapabilitiesRequest) (
	*csipb.ControllerGetCapabilitiesResponse, error) {
	out := &csipb.ControllerGetCapabilitiesResponse{}
	for _, t := range f.can {
		out.Capabilities = append(out.Capabilities, &csipb.ControllerServiceCapability{Type: &csipb.ControllerServiceCapability_Rpc{
			Rpc: &csipb.ControllerServiceCapability_RPC{Type: t}}})
	}
	return out, nil
}

func (f *csiFake) CreateVolume(ctx context.Context, r *csipb.CreateVolumeRequest) (out *csipb.CreateVolumeResponse, err error) {
	err = f.begin(ctx, "create "+r.GetName(), func() error {
		id := "id-" + r.GetName()
		if f.disks[id] == nil {
			f.disks[id] = &csiDisk{name: r.GetName(), bytes: r.GetCapacityRange().GetRequiredBytes(), on: map[string]bool{}}
		}
		f.secret, f.order = r.GetSecrets(), r
		out = &csipb.CreateVolumeResponse{Volume: &csipb.Volume{
			VolumeId: id, CapacityBytes: f.disks[id].bytes, VolumeContext: map[string]string{"made": "yes"},
			AccessibleTopology: preferred(r),
		}}
		return nil
	})
	return out, err
}

// preferred is the place that is asked for first.
func preferred(r *csipb.CreateVolumeRequest) []*csipb.Topology {
	all := r.GetAccessibilityRequirements().GetPreferred()
	return all[:min(1, len(all))]
}

func (f *csiFake) DeleteVolume(ctx context.Context, r *csipb.DeleteVolumeRequest) (*csipb.DeleteVolumeResponse, error) {
	return &csipb.DeleteVolumeResponse{}, f.begin(ctx, "delete "+r.GetVolumeId(), func() error {
		if d := f.disks[r.GetVolumeId()]; d != nil && len(d.on) > 0 {
			f.wrong = append(f.wrong, "delete of "+d.name+", which is attached")
		}
		delete(f.disks, r.GetVolumeId())
		return nil
	})
}

func (f *csiFake) ControllerPublishVolume(ctx context.Context, r *csipb.ControllerPublishVolumeRequest) (
	out *csipb.ControllerPublishVolumeResponse, err error) {
	err = f.begin(ctx, "attach "+r.GetVolumeId()+" "+r.GetNodeId(), func() error {
		d := f.disks[r.GetVolumeId()]
		if d == nil {
			return status.Error(codes.NotFound, "no such volume")
		}
		for other := range d.on {
			if other != r.GetNodeId() {
				f.wrong = append(f.wrong, d.name+" is attached to "+other+", and to be to "+r.GetNodeId())
			}
		}
		d.on[r.GetNodeId()] = true
		out = &csipb.ControllerPublishVolumeResponse{PublishContext: map[string]string{"device": "/dev/" + d.name}}
		return nil
	})
	return out, err
}

func (f *csiFake) ControllerUnpublishVolume(ctx context.Context, r *csipb.ControllerUnpublishVolumeRequest) (
	*csipb.ControllerUnpublishVolumeResponse, error) {
	return &csipb.ControllerUnpublishVolumeResponse{}, f.begin(ctx, "detach "+r.GetVolumeId()+" "+r.GetNodeId(), func() error {
		if d := f.disks[r.GetVolumeId()]; d != nil {
			delete(d.on, r.GetNodeId())
		}
		return nil
	})
}

func (f *csiFake) ControllerExpandVolume(ctx context.Context, r *csipb.ControllerExpandVolumeRequest) (
	out *csipb.ControllerExpandVolumeResponse, err error) {
	err = f.begin(ctx, "expand "+r.GetVolumeId(), func() error {
		d := f.disks[r.GetVolumeId()]
		if d == nil {
			return status.Error(codes.NotFound, "no such volume")
		}
		d.bytes = max(d.bytes, r.GetCapacityRange().GetRequiredBytes())
		out = &csipb.ControllerExpandVolumeResponse{CapacityBytes: d.bytes}
		return nil
	})
	return out, err
}

func (f *csiFake) GetCapacity(ctx context.Context, r *csipb.GetCapacityRequest) (*csipb.GetCapacityResponse, error) {
	return &csipb.GetCapacityResponse{AvailableCapacity: 7 << 30, MaximumVolumeSize: wrapperspb.Int64(2 << 30)},
		f.begin(ctx, "capacity "+r.GetAccessibleTopology().GetSegments()["zone"], func() error { return nil })
}

// csiPipes is a listener of connections in memory.
type csiPipes struct {
	conns chan net.Conn
	ended chan struct{}
	once  sync.Once
}

func (p *csiPipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.ended:
		return nil, net.ErrClosed
	}
}
func (p *csiPipes) Close() error   { p.once.Do(func() { close(p.ended) }); return nil }
func (p *csiPipes) Addr() net.Addr { return &net.UnixAddr{Name: "fake"} }

// serve has the fake reached until the returned function is called.
func (f *csiFake) serve() (dial func(ctx context.Context, node, driver string) (net.Conn, error), stop func()) {
	p := &csiPipes{conns: make(chan net.Conn), ended: make(chan struct{})}
	server := grpc.NewServer()
	csipb.RegisterIdentityServer(server, f)
	csipb.RegisterControllerServer(server, f)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(p) })
	dial = func(ctx context.Context, _, driver string) (net.Conn, error) {
		if driver != f.name {
			return nil, errors.New("no controller of it is on this node")
		}
		here, there := net.Pipe()
		select {
		case p.conns <- there:
			return here, nil
		case <-p.ended:
			return nil, errors.New("it is gone")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return dial, func() { server.Stop(); serving.Wait() }
}

func (f *csiFake) said(call string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Contains(f.calls, call)
}

// has says that a volume which is to be made is there: it is never said to be too much then.
func (f *csiFake) has(call string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	name, creates := strings.CutPrefix(call, "create ")
	return creates && f.disks["id-"+name] != nil
}
