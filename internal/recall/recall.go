// Package recall is what a node tells a control plane whose store was lost or restored, so that this knows again what runs.
package recall

import (
	"encoding/json"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Path is where a node sends Offers (POST) and asks for the Answer (GET).
const Path = "/lockstep/v1/rebuild"

// Offer is a part of what a node knows of the history before. A node sends as many as it needs, the last one with Complete.
type Offer struct {
	// Pods that the node runs or has run and still knows, whole, with their uids and newest statuses.
	Pods []*corev1.Pod `json:"pods,omitempty"`
	// Claims and Volumes that these pods use, whole.
	Claims  []*corev1.PersistentVolumeClaim `json:"claims,omitempty"`
	Volumes []*corev1.PersistentVolume      `json:"volumes,omitempty"`
	// Nodes is the node itself; where Cluster is set it is all nodes.
	Nodes []*corev1.Node `json:"nodes,omitempty"`
	// Services and Slices are all of the cluster, where Cluster is set.
	Services []*corev1.Service            `json:"services,omitempty"`
	Slices   []*discoveryv1.EndpointSlice `json:"slices,omitempty"`
	// Cluster says that this is the part that Answer.Cluster asked for.
	Cluster bool `json:"cluster,omitempty"`
	// Seen is the newest revision of the history before that the node has seen. Zero: it knows nothing of the cluster.
	Seen int64 `json:"seen,omitempty"`
	// Runs are the uids of all pods that the node knows, where Complete is set and Cluster is not: those that it does not name are
	// not there.
	Runs []types.UID `json:"runs,omitempty"`
	// Complete says that nothing follows.
	Complete bool `json:"complete,omitempty"`
}

// Answer is how far the control plane is.
type Answer struct {
	// Rebuilding: the node holds what it has as it is. Else it goes on with what the API says.
	Rebuilding bool `json:"rebuilding"`
	// Cluster asks this node for what it knows of the whole cluster.
	Cluster bool `json:"cluster,omitempty"`
	// Until is when the node need not wait any longer. Zero: there is no bound yet.
	Until time.Time `json:"until,omitzero"`
}

// MaxPart bounds a part in bytes of JSON: a few hundred pods. One object may be a mebibyte, and is then a part of its own.
const MaxPart = 2 << 20

// Parts divides an offer into several that are each at most MaxPart, the last of which is Complete if the offer is. There is at
// least one.
func (o Offer) Parts() []Offer {
	c := cut{blank: Offer{Cluster: o.Cluster, Seen: o.Seen}}
	c.parts = []Offer{c.blank}
	put(&c, o.Nodes, func(p *Offer) *[]*corev1.Node { return &p.Nodes })
	put(&c, o.Volumes, func(p *Offer) *[]*corev1.PersistentVolume { return &p.Volumes })
	put(&c, o.Claims, func(p *Offer) *[]*corev1.PersistentVolumeClaim { return &p.Claims })
	put(&c, o.Pods, func(p *Offer) *[]*corev1.Pod { return &p.Pods })
	put(&c, o.Services, func(p *Offer) *[]*corev1.Service { return &p.Services })
	put(&c, o.Slices, func(p *Offer) *[]*discoveryv1.EndpointSlice { return &p.Slices })
	last := &c.parts[len(c.parts)-1]
	last.Complete, last.Runs = o.Complete, o.Runs
	return c.parts
}

// cut is an offer that is being divided.
type cut struct {
	blank Offer // what each part begins with
	parts []Offer
	size  int // of the last part so far
}

// put adds objects to the last part, or to another one where that has no room, each to the list of it that is theirs.
func put[T any](c *cut, objects []T, list func(*Offer) *[]T) {
	for _, o := range objects {
		data, _ := json.Marshal(o) // Kubernetes' types always encode
		if c.size > 0 && c.size+len(data) > MaxPart {
			c.parts, c.size = append(c.parts, c.blank), 0
		}
		c.size += len(data)
		to := list(&c.parts[len(c.parts)-1])
		*to = append(*to, o)
	}
}
