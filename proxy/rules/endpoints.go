package rules

import (
	"cmp"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// endpoint is one address that may answer a service's port.
type endpoint struct {
	netip.AddrPort
	local bool // on this node
}

// endpoints is who answers one port of a service.
type endpoints struct {
	all   []endpoint // in the whole cluster
	local []endpoint // on this node, under a traffic policy of Local
}

// selectEndpoints finds the endpoints of one port as Kubernetes does: the ready ones, and if there
// is none, those that terminate but still serve; for each policy by itself. An endpoint that
// several slices name counts once.
// (https://kubernetes.io/docs/reference/networking/virtual-ips/#traffic-to-terminating-endpoints)
func selectEndpoints(family Family, port *corev1.ServicePort, list []*discoveryv1.EndpointSlice, node string) endpoints {
	var ready, serving []endpoint
	for _, s := range list {
		if s.AddressType != family.addressType() {
			continue
		}
		number, ok := slicePort(s, port)
		if !ok {
			continue
		}
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			if len(e.Addresses) == 0 {
				continue
			}
			a, ok := family.parse(e.Addresses[0]) // further ones are fungible, by the API's definition
			if !ok {
				continue
			}
			found := endpoint{netip.AddrPortFrom(a, number), e.NodeName != nil && *e.NodeName == node}
			switch c := e.Conditions; {
			case c.Ready == nil || *c.Ready:
				ready = append(ready, found)
			case (c.Serving == nil || *c.Serving) && c.Terminating != nil && *c.Terminating:
				serving = append(serving, found)
			}
		}
	}
	ready, serving = sortedUnique(ready, compareEndpoints), sortedUnique(serving, compareEndpoints)
	return endpoints{
		all:   either(ready, serving),
		local: either(onNode(ready), onNode(serving)),
	}
}

// servers are where the API is reached: the addresses that the node was told, and the endpoints of default/kubernetes,
// ready or not.
func servers(family Family, in Input) []netip.AddrPort {
	var out []netip.AddrPort
	for _, a := range in.Servers {
		if a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port()); family.Has(a.Addr()) && a.Port() != 0 {
			out = append(out, a)
		}
	}
	for _, s := range in.Slices {
		if s.Namespace != metav1.NamespaceDefault || s.Labels[discoveryv1.LabelServiceName] != "kubernetes" ||
			s.AddressType != family.addressType() {
			continue
		}
		for _, p := range s.Ports {
			if p.Port == nil || *p.Port <= 0 || *p.Port >= 1<<16 {
				continue
			}
			for i := range s.Endpoints {
				for _, text := range s.Endpoints[i].Addresses {
					if a, ok := family.parse(text); ok {
						out = append(out, netip.AddrPortFrom(a, uint16(*p.Port)))
					}
				}
			}
		}
	}
	return sortedUnique(out, netip.AddrPort.Compare)
}

func slicePort(s *discoveryv1.EndpointSlice, port *corev1.ServicePort) (uint16, bool) {
	for _, p := range s.Ports {
		name, protocol := "", corev1.ProtocolTCP
		if p.Name != nil {
			name = *p.Name
		}
		if p.Protocol != nil {
			protocol = *p.Protocol
		}
		if p.Port != nil && name == port.Name && protocol == protocolOf(port.Protocol) && *p.Port > 0 && *p.Port < 1<<16 {
			return uint16(*p.Port), true
		}
	}
	return 0, false
}

func protocolOf(p corev1.Protocol) corev1.Protocol { return cmp.Or(p, corev1.ProtocolTCP) }

func either(preferred, fallback []endpoint) []endpoint {
	if len(preferred) > 0 {
		return preferred
	}
	return fallback
}

func onNode(list []endpoint) []endpoint {
	var out []endpoint
	for _, e := range list {
		if e.local {
			out = append(out, e)
		}
	}
	return out
}

func compareEndpoints(a, b endpoint) int {
	return cmp.Or(a.AddrPort.Compare(b.AddrPort), compareBools(a.local, b.local))
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func addrPorts(list []endpoint) []netip.AddrPort {
	out := make([]netip.AddrPort, len(list))
	for i, e := range list {
		out[i] = e.AddrPort
	}
	return out
}
