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
	blank := Offer{Cluster: o.Cluster, Seen: o.Seen}
	parts, size := []Offer{blank}, 0
	room := func(object any) *Offer {
		data, _ := json.Marshal(object) // Kubernetes' types always encode
		if size > 0 && size+len(data) > MaxPart {
			parts, size = append(parts, blank), 0
		}
		size += len(data)
		return &parts[len(parts)-1]
	}
	for _, n := range o.Nodes {
		p := room(n)
		p.Nodes = append(p.Nodes, n)
	}
	for _, v := range o.Volumes {
		p := room(v)
		p.Volumes = append(p.Volumes, v)
	}
	for _, c := range o.Claims {
		p := room(c)
		p.Claims = append(p.Claims, c)
	}
	for _, pod := range o.Pods {
		p := room(pod)
		p.Pods = append(p.Pods, pod)
	}
	for _, s := range o.Services {
		p := room(s)
		p.Services = append(p.Services, s)
	}
	for _, s := range o.Slices {
		p := room(s)
		p.Slices = append(p.Slices, s)
	}
	last := &parts[len(parts)-1]
	last.Complete, last.Runs = o.Complete, o.Runs
	return parts
}
