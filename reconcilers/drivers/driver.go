package drivers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"lockstep/internal/plain"
	"lockstep/reconcilers/csi"
	"lockstep/store/view"
)

const (
	// dialTimeout bounds reaching a driver through one node.
	dialTimeout = 10 * time.Second
	// maxNodes bounds through how many nodes one call looks for a controller that answers.
	maxNodes = 3
	// maxAnswer bounds one answer: the largest has a volume's attributes, of which CSI allows 4 KiB.
	maxAnswer = 1 << 20
)

// roster has the drivers that are spoken to. It is safe for concurrent use.
type roster struct {
	dial func(ctx context.Context, node, driver string) (net.Conn, error)
	mu   sync.Mutex
	by   map[string]*driver
}

// driver is one by its name.
type driver struct {
	name  string
	slots chan struct{}

	mu    sync.Mutex
	says  *csi.Driver      // nil: it is to be asked
	links map[string]*link // by node
}

// link is a connection through a node.
type link struct {
	*grpc.ClientConn
	raw net.Conn
}

func (l *link) end() {
	l.Close()
	l.raw.Close()
}

func (d *roster) get(name string) *driver {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.by[name] == nil {
		d.by[name] = &driver{name: name, slots: make(chan struct{}, AtOnce), links: map[string]*link{}}
	}
	return d.by[name]
}

// known is what a driver says of itself, or nil.
func (d *roster) known(name string) *csi.Driver {
	one := d.get(name)
	one.mu.Lock()
	defer one.mu.Unlock()
	return one.says
}

func (d *roster) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, one := range d.by {
		one.mu.Lock()
		for node, l := range one.links {
			l.end()
			delete(one.links, node)
		}
		one.mu.Unlock()
	}
}

// enter takes one of a driver's calls at a time, if there is one left.
func (d *driver) enter() bool {
	select {
	case d.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

func (d *driver) leave() { <-d.slots }

// forget closes the connection through a node. What comes there next may be another version: it is asked anew.
func (d *driver) forget(node string, l *link) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.links[node] == l {
		delete(d.links, node)
		d.says = nil
	}
	l.end()
}

// reach returns a connection to a driver's controller, near some nodes where there is one, and through which node it goes.
func (c *Controller) reach(ctx context.Context, v *view.View, d *driver, near []string) (string, *link, error) {
	nodes := csi.Through(v, d.name, near)
	err := fmt.Errorf("no node reaches the controller of CSI driver %s", d.name)
	for i, node := range nodes {
		if i == maxNodes {
			break
		}
		var l *link
		if l, err = c.through(ctx, d, node); err == nil {
			return node, l, nil
		}
	}
	return "", nil, status.Error(codes.Unavailable, err.Error())
}

func (c *Controller) through(ctx context.Context, d *driver, node string) (*link, error) {
	d.mu.Lock()
	l := d.links[node]
	d.mu.Unlock()
	if l != nil {
		return l, nil
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := c.drivers.dial(ctx, node, d.name)
	if err != nil {
		return nil, err
	}
	conn, err := over(raw)
	if err != nil {
		raw.Close()
		return nil, err
	}
	l = &link{conn, raw}
	d.mu.Lock()
	defer d.mu.Unlock()
	if before := d.links[node]; before != nil { // somebody else was as quick
		l.end()
		return before, nil
	}
	d.links[node] = l
	return l, nil
}

// over speaks gRPC over a connection; once that has ended it is of no use.
func over(raw net.Conn) (*grpc.ClientConn, error) {
	given := make(chan net.Conn, 1)
	given <- raw
	return grpc.NewClient("passthrough:///driver", grpc.WithAuthority("localhost"),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(), grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
		grpc.WithIdleTimeout(0),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			select {
			case conn := <-given:
				return conn, nil
			default:
				return nil, errors.New("the connection has ended")
			}
		}))
}

// introduce asks a driver what it is and can.
func (c *Controller) introduce(ctx context.Context, v *view.View, d *driver) error {
	node, l, err := c.reach(ctx, v, d, nil)
	if err != nil {
		return err
	}
	says, err := introduction(ctx, l, d.name)
	if err != nil {
		d.forget(node, l)
		return shown(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.says = says
	return nil
}

func introduction(ctx context.Context, conn grpc.ClientConnInterface, name string) (*csi.Driver, error) {
	identity := csipb.NewIdentityClient(conn)
	info, err := identity.GetPluginInfo(ctx, &csipb.GetPluginInfoRequest{})
	if err != nil {
		return nil, err
	}
	if info.GetName() != name {
		return nil, fmt.Errorf("it says that it is %q", info.GetName())
	}
	plugin, err := identity.GetPluginCapabilities(ctx, &csipb.GetPluginCapabilitiesRequest{})
	if err != nil {
		return nil, err
	}
	calls, err := csipb.NewControllerClient(conn).ControllerGetCapabilities(ctx, &csipb.ControllerGetCapabilitiesRequest{})
	if err != nil {
		return nil, err
	}
	out := &csi.Driver{Name: name, Can: map[csipb.ControllerServiceCapability_RPC_Type]bool{}}
	for _, can := range calls.GetCapabilities() {
		out.Can[can.GetRpc().GetType()] = true
	}
	for _, can := range plugin.GetCapabilities() {
		switch can.GetVolumeExpansion().GetType() {
		case csipb.PluginCapability_VolumeExpansion_ONLINE:
			out.Online = true
		case csipb.PluginCapability_VolumeExpansion_OFFLINE:
			out.Offline = true
		}
		if can.GetService().GetType() == csipb.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS {
			out.Topology = true
		}
	}
	return out, nil
}

// call makes a call. Its error is a gRPC status, with a text that is fit to be shown.
func (c *Controller) call(ctx context.Context, v *view.View, d *driver, call *csi.Call) (any, error) {
	node, l, err := c.reach(ctx, v, d, call.Near)
	if err != nil {
		return nil, shown(err)
	}
	answer, err := send(ctx, csipb.NewControllerClient(l), call.Request)
	if status.Code(err) == codes.Unavailable {
		d.forget(node, l)
	}
	return answer, shown(err)
}

func send(ctx context.Context, to csipb.ControllerClient, request any) (any, error) {
	switch r := request.(type) {
	case *csipb.CreateVolumeRequest:
		return to.CreateVolume(ctx, r)
	case *csipb.DeleteVolumeRequest:
		return to.DeleteVolume(ctx, r)
	case *csipb.ControllerPublishVolumeRequest:
		return to.ControllerPublishVolume(ctx, r)
	case *csipb.ControllerUnpublishVolumeRequest:
		return to.ControllerUnpublishVolume(ctx, r)
	case *csipb.ControllerExpandVolumeRequest:
		return to.ControllerExpandVolume(ctx, r)
	case *csipb.GetCapacityRequest:
		return to.GetCapacity(ctx, r)
	}
	panic(fmt.Sprintf("csi: no call for %T", request))
}

// shown is a failure with its code, and a text that is bounded and plain: drivers write it.
func shown(err error) error {
	if err == nil {
		return nil
	}
	s := status.Convert(err)
	return status.Error(s.Code(), plain.Cut(s.Message(), maxText-100))
}
