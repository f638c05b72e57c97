// Package replica keeps on a node's disk what service rules, names and routes are made from, so that they are there
// after a restart or a reboot while the control plane is away.
package replica

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// State is the cluster as a node saw it.
type State struct {
	Services   []*corev1.Service
	Slices     []*discoveryv1.EndpointSlice
	Nodes      []*corev1.Node
	Namespaces []*corev1.Namespace
	// Ingresses and Classes are those of nodes that serve ingress.
	Ingresses []*networkingv1.Ingress
	Classes   []*networkingv1.IngressClass
}

// magic begins the file; another layout gets another one.
//
//	magic, SHA-256 of the rest, then Kubernetes lists in protobuf, each after
//	its length in 8 bytes, big-endian: four, and two of ingress, which a file
//	of an earlier release has not and an earlier release passes over
const magic = "lockstep replica 1\n"

// message is what Kubernetes' generated types have.
type message interface {
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

// Save replaces the file, whole or not at all, also when the machine loses power meanwhile.
func Save(path string, s State) error {
	data, err := encode(s)
	if err == nil {
		err = replace(path, data)
	}
	if err != nil {
		return fmt.Errorf("cannot keep cluster state: %w", err)
	}
	return nil
}

// Load reads the file; without one it returns nil.
func Load(path string) (*State, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var s State
	if err == nil {
		s, err = decode(data)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read kept cluster state: %w", err)
	}
	return &s, nil
}

func encode(s State) ([]byte, error) {
	services, slices := &corev1.ServiceList{}, &discoveryv1.EndpointSliceList{}
	nodes, namespaces := &corev1.NodeList{}, &corev1.NamespaceList{}
	for _, o := range s.Services {
		services.Items = append(services.Items, *o)
	}
	for _, o := range s.Slices {
		slices.Items = append(slices.Items, *o)
	}
	for _, o := range s.Nodes {
		nodes.Items = append(nodes.Items, leanNode(o))
	}
	for _, o := range s.Namespaces {
		namespaces.Items = append(namespaces.Items, corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: o.Name, UID: o.UID}})
	}
	var body []byte
	ingresses, classes := &networkingv1.IngressList{}, &networkingv1.IngressClassList{}
	for _, o := range s.Ingresses {
		ingresses.Items = append(ingresses.Items, *o)
	}
	for _, o := range s.Classes {
		classes.Items = append(classes.Items, *o)
	}
	for _, list := range []message{services, slices, nodes, namespaces, ingresses, classes} {
		data, err := list.Marshal()
		if err != nil {
			return nil, err
		}
		body = binary.BigEndian.AppendUint64(body, uint64(len(data)))
		body = append(body, data...)
	}
	sum := sha256.Sum256(body)
	return append(append([]byte(magic), sum[:]...), body...), nil
}

// leanNode has what routes and rules need; a node's status has kilobytes more.
func leanNode(n *corev1.Node) corev1.Node {
	return corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name, UID: n.UID, Labels: n.Labels},
		Spec:       corev1.NodeSpec{PodCIDR: n.Spec.PodCIDR, PodCIDRs: n.Spec.PodCIDRs},
		Status:     corev1.NodeStatus{Addresses: n.Status.Addresses},
	}
}

func decode(data []byte) (State, error) {
	body, ok := bytes.CutPrefix(data, []byte(magic))
	if !ok || len(body) < sha256.Size {
		return State{}, errors.New("not of this version")
	}
	sum := sha256.Sum256(body[sha256.Size:])
	if !bytes.Equal(sum[:], body[:sha256.Size]) {
		return State{}, errors.New("the file is damaged")
	}
	body = body[sha256.Size:]
	services, slices := &corev1.ServiceList{}, &discoveryv1.EndpointSliceList{}
	nodes, namespaces := &corev1.NodeList{}, &corev1.NamespaceList{}
	ingresses, classes := &networkingv1.IngressList{}, &networkingv1.IngressClassList{}
	for i, list := range []message{services, slices, nodes, namespaces, ingresses, classes} {
		if i == 4 && len(body) == 0 {
			break
		}
		if len(body) < 8 {
			return State{}, errors.New("the file is too short")
		}
		n := binary.BigEndian.Uint64(body)
		if body = body[8:]; n > uint64(len(body)) {
			return State{}, errors.New("the file is too short")
		}
		if err := list.Unmarshal(body[:n]); err != nil {
			return State{}, err
		}
		body = body[n:]
	}
	return State{pointers(services.Items), pointers(slices.Items), pointers(nodes.Items), pointers(namespaces.Items),
		pointers(ingresses.Items), pointers(classes.Items)}, nil
}

func pointers[T any](items []T) []*T {
	out := make([]*T, len(items))
	for i := range items {
		out[i] = &items[i]
	}
	return out
}

// replace writes beside the file, waits for the disk and renames.
func replace(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
