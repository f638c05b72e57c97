// Package rules compiles services into the iptables rules that carry their traffic.
package rules

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Input is everything a node's rules depend on. Compile only reads it; the objects may be shared
// with caches. The order of its lists is without meaning.
type Input struct {
	// Services of the whole cluster. Headless and ExternalName ones have no rules and may be in it.
	Services []*corev1.Service
	// Slices of the whole cluster; those of no service in Services have no effect.
	Slices []*discoveryv1.EndpointSlice
	// HostPorts of the pods on this node.
	HostPorts []HostPort
	Node      Node
	// PodNetworks are the networks of all pods in the cluster, such as 10.42.0.0/16. Traffic
	// between pods is never masqueraded, except to itself.
	PodNetworks []netip.Prefix
	// ServiceNetworks are the networks of all cluster IPs, such as 10.43.0.0/16. What is still
	// addressed there after the services' rules has nobody behind it and is rejected.
	ServiceNetworks []netip.Prefix
	// LocalServices are service addresses at which the node answers itself, such as the DNS
	// address; no service's rules apply to them.
	LocalServices []netip.Addr
	// Servers are addresses at which this node reaches the API, those that it was told; the endpoints of
	// default/kubernetes are more. No service's rules apply to either.
	Servers []netip.AddrPort
	// LocalhostPorts makes node ports and host ports answer on 127.0.0.1 too (IPv4 only).
	LocalhostPorts bool
}

// Node is the node whose rules are wanted.
type Node struct {
	Name string
	// Addresses of the node, its preferred one of each family first.
	Addresses []netip.Addr
	// PodCIDRs are the networks of this node's pods; empty until they are allocated, and then no
	// pod's traffic is masqueraded on its way out.
	PodCIDRs []netip.Prefix
}

// HostPort is one port of a pod on this node that is reachable at the node's address.
type HostPort struct {
	Pod      string // namespace/name, for the rule's comment
	PodIP    netip.Addr
	Port     uint16     // the container's
	HostPort uint16     // the node's
	HostIP   netip.Addr // zero or unspecified: every address of the node
	Protocol corev1.Protocol
}

// Family is an address family; each has tables, and so a Ruleset, of its own.
type Family uint8

// The families. Their values are those of the IP header.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// Families lists them.
func Families() []Family { return []Family{IPv4, IPv6} }

// String is "IPv4" or "IPv6".
func (f Family) String() string { return string(f.addressType()) }

// Has tells whether a is an address of the family. The zero address is of none.
func (f Family) Has(a netip.Addr) bool {
	if f == IPv6 {
		return a.Is6() && !a.Is4In6()
	}
	return a.Is4()
}

func (f Family) addressType() discoveryv1.AddressType {
	if f == IPv6 {
		return discoveryv1.AddressTypeIPv6
	}
	return discoveryv1.AddressTypeIPv4
}

func (f Family) multicast() string {
	if f == IPv6 {
		return "ff00::/8"
	}
	return "224.0.0.0/4"
}

func (f Family) mask() string {
	if f == IPv6 {
		return "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
	}
	return "255.255.255.255"
}

func (f Family) reject() string {
	if f == IPv6 {
		return "-j REJECT --reject-with icmp6-port-unreachable"
	}
	return "-j REJECT --reject-with icmp-port-unreachable"
}

func (f Family) prefixes(all []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range all {
		if p.IsValid() && f.Has(p.Addr()) {
			out = append(out, p.Masked())
		}
	}
	return sortedUnique(out, comparePrefixes)
}

func (f Family) addresses(all []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range all {
		if f.Has(a) {
			out = append(out, a)
		}
	}
	return sortedUnique(out, netip.Addr.Compare)
}

// parse reads text as an address of the family.
func (f Family) parse(text string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}, false
	}
	a = a.Unmap()
	return a, f.Has(a)
}
