package nodeagent

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/nodeagent/client"
	"lockstep/nodeagent/csi"
)

// csiSocket is the annotation by which a pod says where its driver's controller service listens: the name of an emptyDir volume,
// and the socket's in it, `socket-dir/csi.sock`.
const csiSocket = "lockstep.dev/csi-socket"

// storageAPI has the kinds of CSI.
const storageAPI = "/apis/storage.k8s.io/v1"

func (a *Agent) csiOptions() csi.Options {
	return csi.Options{Dir: a.opts.KubeletDir, Node: a.opts.NodeName, Cluster: csiCluster{a}, Knows: owner{a}.Knows,
		Sockets: a.csiSockets, Changed: a.reportNode, Log: a.log,
		Events: func(o *corev1.Pod, kind, reason, message string) { a.events.Event(o, kind, reason, message) }}
}

// csiSockets are those that pods say they have.
func (a *Agent) csiSockets() []csi.Socket {
	var out []csi.Socket
	for _, p := range a.allPods() {
		o := p.Object()
		volume, file, ok := strings.Cut(o.Annotations[csiSocket], "/")
		if !ok || file == "" || !p.Active() || !slices.ContainsFunc(o.Spec.Volumes, func(v corev1.Volume) bool {
			return v.Name == volume && v.EmptyDir != nil
		}) {
			continue
		}
		out = append(out, csi.Socket{UID: o.UID, Namespace: o.Namespace, Dir: a.volumes.EmptyDir(o.UID, volume), File: file})
	}
	return out
}

// csiCluster is the cluster as drivers' volumes need it.
type csiCluster struct{ *Agent }

// Driver implements csi.Cluster.
func (c csiCluster) Driver(ctx context.Context, name string) (*storagev1.CSIDriver, error) {
	out := &storagev1.CSIDriver{}
	return out, c.read(ctx, "csidrivers", name, out)
}

// Attachment implements csi.Cluster.
func (c csiCluster) Attachment(ctx context.Context, name string) (*storagev1.VolumeAttachment, error) {
	out := &storagev1.VolumeAttachment{}
	return out, c.read(ctx, "volumeattachments", name, out)
}

func (c csiCluster) read(ctx context.Context, resource, name string, into runtime.Object) error {
	api := c.api()
	if api == nil {
		return errors.New("not connected to the API")
	}
	return readStorage(ctx, api, resource, name, into)
}

func readStorage(ctx context.Context, api client.Interface, resource, name string, into runtime.Object) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	return api.CoreV1().RESTClient().Get().AbsPath(storageAPI, resource, name).Do(ctx).Into(into)
}

// Secret implements csi.Cluster.
func (c csiCluster) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return c.content.Secret(ctx, namespace, name)
}

// Token implements csi.Cluster.
func (c csiCluster) Token(ctx context.Context, o *corev1.Pod, p *corev1.ServiceAccountTokenProjection) (string, error) {
	return c.tokens.Get(ctx, o, p)
}

// InUse implements csi.Cluster. The node asks for itself: what it follows of nodes has no status.
func (c csiCluster) InUse(ctx context.Context, volume string) (bool, error) {
	api := c.api()
	if api == nil {
		return false, errors.New("not connected to the API")
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	n, err := api.CoreV1().Nodes().Get(ctx, c.opts.NodeName, metav1.GetOptions{})
	if err != nil {
		return false, err
	}
	return slices.Contains(n.Status.VolumesInUse, corev1.UniqueVolumeName(volume)), nil
}

// csiNode is the API as it is told of a node's drivers.
type csiNode struct {
	agent *Agent
	api   client.Interface
}

// Get implements csi.API.
func (c csiNode) Get(ctx context.Context) (*storagev1.CSINode, error) {
	out := &storagev1.CSINode{}
	return out, readStorage(ctx, c.api, "csinodes", c.agent.opts.NodeName, out)
}

// Create implements csi.API.
func (c csiNode) Create(ctx context.Context, n *storagev1.CSINode) error {
	body, err := csiNodeJSON(n)
	if err != nil {
		return err
	}
	return c.api.CoreV1().RESTClient().Post().AbsPath(storageAPI, "csinodes").SetHeader("Content-Type", runtime.ContentTypeJSON).
		Body(body).Do(ctx).Error()
}

// Update implements csi.API.
func (c csiNode) Update(ctx context.Context, n *storagev1.CSINode) error {
	body, err := csiNodeJSON(n)
	if err != nil {
		return err
	}
	return c.api.CoreV1().RESTClient().Put().AbsPath(storageAPI, "csinodes", n.Name).SetHeader("Content-Type", runtime.ContentTypeJSON).
		Body(body).Do(ctx).Error()
}

func csiNodeJSON(n *storagev1.CSINode) ([]byte, error) {
	n = n.DeepCopy()
	n.APIVersion, n.Kind = storagev1.SchemeGroupVersion.String(), "CSINode"
	return json.Marshal(n)
}

// NodeUID implements csi.API.
func (c csiNode) NodeUID() types.UID {
	if s := c.agent.cluster.Snapshot(); s != nil {
		if n := s.Node(c.agent.opts.NodeName); n != nil {
			return n.UID
		}
	}
	return ""
}
