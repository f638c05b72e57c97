package csi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

const (
	// maxName bounds a driver's name, as the specification does.
	maxName = 63
	// maxID and maxTopology bound in bytes what a driver calls the node, and where that is in its world, as the specification does: both
	// become part of the Node, which could not be stored with more.
	maxID, maxTopology = 256, 4 << 10
	// maxAnswer bounds one answer: no part of it is longer than 4 KiB.
	maxAnswer = 1 << 20
)

// driver speaks to a driver's node service.
type driver struct {
	name, endpoint string
	conn           *grpc.ClientConn
	node           csipb.NodeClient
	capable        map[csipb.NodeServiceCapability_RPC_Type]bool
	// controller says that its controller service is at the same socket.
	controller bool

	id       string
	most     int64 // volumes on this node; zero: it does not say
	topology map[string]string
}

// dial reaches a unix socket, however long its path is.
func dial(ctx context.Context, path string) (net.Conn, error) {
	fd, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot reach %s: %w", path, err)
	}
	defer unix.Close(fd)
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", "/proc/self/fd/"+strconv.Itoa(fd)+"/"+filepath.Base(path))
	if err != nil {
		return nil, fmt.Errorf("cannot reach %s: %w", path, unnamed(err))
	}
	return conn, nil
}

// unnamed is an error of dialling without the path that nobody knows.
func unnamed(err error) error {
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		return op.Err
	}
	return err
}

// connect returns a connection that is made when it is used, and made again when it broke.
func connect(open func(context.Context) (net.Conn, error)) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///driver", grpc.WithAuthority("localhost"),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return open(ctx) }))
}

// checkName says why a driver cannot have a name: it is part of paths.
func checkName(name string) error {
	if len(name) > maxName || len(validation.IsDNS1123Subdomain(name)) > 0 {
		return fmt.Errorf("%q is no name of a CSI driver", name)
	}
	return nil
}

// open asks a driver at a socket what it is and can.
func open(ctx context.Context, name, endpoint string) (*driver, error) {
	conn, err := connect(func(ctx context.Context) (net.Conn, error) { return dial(ctx, endpoint) })
	if err != nil {
		return nil, err
	}
	d := &driver{name: name, endpoint: endpoint, conn: conn, node: csipb.NewNodeClient(conn),
		capable: map[csipb.NodeServiceCapability_RPC_Type]bool{}}
	if err := d.ask(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return d, nil
}

func (d *driver) ask(ctx context.Context) error {
	info, err := d.node.NodeGetInfo(ctx, &csipb.NodeGetInfoRequest{})
	if err != nil {
		return err
	}
	if err := checkInfo(info); err != nil {
		return err
	}
	d.id, d.most, d.topology = info.GetNodeId(), info.GetMaxVolumesPerNode(), info.GetAccessibleTopology().GetSegments()
	can, err := d.node.NodeGetCapabilities(ctx, &csipb.NodeGetCapabilitiesRequest{})
	if err != nil {
		return err
	}
	for _, c := range can.GetCapabilities() {
		d.capable[c.GetRpc().GetType()] = true
	}
	of, err := csipb.NewIdentityClient(d.conn).GetPluginCapabilities(ctx, &csipb.GetPluginCapabilitiesRequest{})
	if err != nil {
		return err
	}
	d.controller = slices.ContainsFunc(of.GetCapabilities(), func(c *csipb.PluginCapability) bool {
		return c.GetService().GetType() == csipb.PluginCapability_Service_CONTROLLER_SERVICE
	})
	return nil
}

// checkInfo says why a driver's word on its node cannot be taken.
func checkInfo(info *csipb.NodeGetInfoResponse) error {
	size := 0
	for key, value := range info.GetAccessibleTopology().GetSegments() {
		size += len(key) + len(value)
	}
	switch n := len(info.GetNodeId()); {
	case n == 0:
		return errors.New("the driver has no ID for this node")
	case n > maxID:
		return fmt.Errorf("the driver's ID for this node has %d bytes, and may have %d", n, maxID)
	case size > maxTopology:
		return fmt.Errorf("the driver's topology of this node has %d bytes, and may have %d", size, maxTopology)
	}
	return nil
}

func (d *driver) close() { d.conn.Close() }

func (d *driver) stages() bool {
	return d.capable[csipb.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME]
}

func (d *driver) mountsForGroup() bool {
	return d.capable[csipb.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP]
}

// mode is an access mode as the driver knows it.
func (d *driver) mode(m corev1.PersistentVolumeAccessMode) csipb.VolumeCapability_AccessMode_Mode {
	several := d.capable[csipb.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER]
	switch m {
	case corev1.ReadWriteOnce:
		if several {
			return csipb.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
		}
		return csipb.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
	case corev1.ReadOnlyMany:
		return csipb.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
	case corev1.ReadWriteMany:
		return csipb.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
	case corev1.ReadWriteOncePod:
		if several {
			return csipb.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
		}
		return csipb.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
	}
	return csipb.VolumeCapability_AccessMode_UNKNOWN
}

// capability is what a driver is asked to mount.
func (d *driver) capability(v *Volume) *csipb.VolumeCapability {
	mode := corev1.ReadWriteOnce
	if len(v.Modes) > 0 {
		mode = v.Modes[0]
	}
	out := &csipb.VolumeCapability{AccessMode: &csipb.VolumeCapability_AccessMode{Mode: d.mode(mode)}}
	if v.Block {
		out.AccessType = &csipb.VolumeCapability_Block{Block: &csipb.VolumeCapability_BlockVolume{}}
		return out
	}
	mount := &csipb.VolumeCapability_MountVolume{FsType: v.Source.FSType, MountFlags: v.Options}
	if group := v.group(); group != nil && d.mountsForGroup() {
		mount.VolumeMountGroup = strconv.FormatInt(*group, 10)
	}
	out.AccessType = &csipb.VolumeCapability_Mount{Mount: mount}
	return out
}
