package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/store/view"
)

// dnsPort is where a node asks for names, at a server of its own.
const dnsPort = 53

// reach finds the objects that would take from nodes what they need themselves: the addresses and the ports at which they
// reach each other and the API. A node that has such rules cannot learn that they are gone again.
func (d *decision) reach(steps []Step) Problems {
	var problems Problems
	var whose func(netip.Addr) string
	for _, s := range steps {
		if s.Verb == Prune || s.Object == nil {
			continue
		}
		refuse := func(field, reason string) {
			problems = append(problems, Problem{Origin: s.Entry.Origin, Key: s.Key, Field: field, Message: field + ": " + reason})
		}
		for field, addr := range outsideAddresses(s.Object) {
			if whose == nil {
				whose = d.in.Services.Whose(d.in.View)
			}
			if owner := whose(addr); owner != "" {
				refuse(field, fmt.Sprintf("%v is %s, which no service can have", addr, owner))
			}
		}
		for _, p := range nodePorts(s.Object) {
			if _, err := netip.ParseAddr(p.ip); err != nil && p.ip != "" {
				refuse(p.field[:strings.LastIndex(p.field, ".")]+".hostIP", fmt.Sprintf("%q is no IP address", p.ip))
			}
			if what := d.needed(p.number); what != "" {
				refuse(p.field, fmt.Sprintf("port %d is needed by nodes themselves: %s", p.number, what))
			}
		}
		if field := ofTheAPI(s.Object); field != "" {
			refuse(field, "the endpoints of Service default/kubernetes are the API servers, which the cluster itself keeps")
		}
	}
	return problems
}

// ofTheAPI returns the field by which endpoints are those of Service default/kubernetes; empty: they are not.
func ofTheAPI(o kinds.Object) string {
	if o.GetNamespace() != metav1.NamespaceDefault {
		return ""
	}
	switch o := o.(type) {
	case *discoveryv1.EndpointSlice:
		if o.Labels[discoveryv1.LabelServiceName] == "kubernetes" {
			return "metadata.labels"
		}
	case *corev1.Endpoints:
		if o.Name == "kubernetes" {
			return "metadata.name"
		}
	}
	return ""
}

// outsideAddresses yields the addresses that a service wants besides its cluster IPs, by field, in order.
func outsideAddresses(o kinds.Object) func(func(string, netip.Addr) bool) {
	return func(yield func(string, netip.Addr) bool) {
		s, ok := o.(*corev1.Service)
		if !ok {
			return
		}
		for i, text := range s.Spec.ExternalIPs {
			if addr, err := netip.ParseAddr(text); err == nil && !yield(fmt.Sprintf("spec.externalIPs[%d]", i), addr.Unmap()) {
				return
			}
		}
		if addr, err := netip.ParseAddr(s.Spec.LoadBalancerIP); err == nil {
			yield("spec.loadBalancerIP", addr.Unmap())
		}
	}
}

// Whose finds to whom an address belongs that no service can have; empty: to nobody known. Node ports and reserved addresses are of no
// matter to it.
func (n Networks) Whose(v *view.View) func(netip.Addr) string {
	nodes := n.nodes(v)
	in := func(list []netip.Prefix, addr netip.Addr) bool {
		return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(addr) })
	}
	return func(addr netip.Addr) string {
		switch {
		case nodes[addr] != "":
			return nodes[addr]
		case addr.IsUnspecified():
			return "no address"
		case addr.IsLoopback():
			return "a loopback address"
		case addr.IsLinkLocalUnicast(), addr.IsLinkLocalMulticast():
			return "a link-local address"
		case addr.IsMulticast(), addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			return "a multicast or broadcast address"
		case in(n.CIDRs, addr):
			return "in the service network"
		case in(n.Pods, addr):
			return "in the pod network"
		}
		return ""
	}
}

// nodes are the addresses of nodes and of API servers, with their owners' names.
func (n Networks) nodes(v *view.View) map[netip.Addr]string {
	out := map[netip.Addr]string{}
	for node := range view.List[*corev1.Node](v, "") {
		for _, a := range node.Status.Addresses {
			if addr, err := netip.ParseAddr(a.Address); err == nil {
				out[addr.Unmap()] = "the address of node " + node.Name
			}
		}
	}
	for s := range view.List[*discoveryv1.EndpointSlice](v, metav1.NamespaceDefault) {
		if s.Labels[discoveryv1.LabelServiceName] != "kubernetes" {
			continue
		}
		for _, e := range s.Endpoints {
			for _, text := range e.Addresses {
				if addr, err := netip.ParseAddr(text); err == nil {
					out[addr.Unmap()] = "the address of an API server"
				}
			}
		}
	}
	for _, addr := range n.API {
		out[addr.Unmap()] = "the address of an API server"
	}
	return out
}

// needed says what a node needs one of its ports for; empty: nothing.
func (d *decision) needed(port int32) string {
	if what, ok := d.in.Services.Ports[port]; ok {
		return what
	}
	if port == dnsPort {
		return "names"
	}
	return ""
}

// nodePort is a port of nodes that an object wants, with the path of its field.
type nodePort struct {
	field  string
	number int32
	ip     string // the only one of the node's, where it is stated
}

func nodePorts(o kinds.Object) []nodePort {
	var out []nodePort
	for _, c := range claims(o) {
		if c.port != 0 {
			out = append(out, nodePort{c.field, c.port, ""})
		}
	}
	_, spec, at := kinds.Of(o).Pods(o)
	if spec == nil {
		return out
	}
	for _, list := range []struct {
		name       string
		containers []corev1.Container
	}{{"initContainers", spec.InitContainers}, {"containers", spec.Containers}} {
		for i, c := range list.containers {
			for j, p := range c.Ports {
				if p.HostPort != 0 {
					out = append(out, nodePort{fmt.Sprintf("%s.%s[%d].ports[%d].hostPort", at, list.name, i, j), p.HostPort, p.HostIP})
				}
			}
		}
	}
	return out
}
