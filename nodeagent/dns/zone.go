// Package dns answers names on a node from the node's own copy of the cluster's state.
package dns

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// State is everything that the cluster's names depend on. The objects are only read; the order of
// the lists is without meaning.
type State struct {
	Services []*corev1.Service
	Slices   []*discoveryv1.EndpointSlice
	// Namespaces that exist. Nil: unknown; then pods' names are answered in any namespace.
	Namespaces []string
	// Networks of the cluster's services and pods. The name of an address in them is never asked
	// for upstream.
	Networks []netip.Prefix
}

// Zone is a state indexed by name. It is immutable.
type Zone struct {
	domain     string // lower case, without the last dot
	services   map[string]*service
	namespaces map[string]bool // that have services or exist
	known      bool            // namespaces is complete
	names      map[netip.Addr][]string
	networks   []netip.Prefix
}

// service is what has a name; all strings in lower case.
type service struct {
	name      string // <service>.<namespace>
	addresses []netip.Addr
	external  string // the target of an ExternalName service, without the last dot
	headless  bool
	ports     []port
	hosts     []host // of a headless service, sorted
}

type port struct {
	name, protocol string
	number         uint16
}

// host is an endpoint of a headless service.
type host struct {
	name    string
	address netip.Addr
	ports   []port
}

// NewZone indexes a state under a domain such as "cluster.local".
func NewZone(domain string, s State) *Zone {
	z := &Zone{
		domain:     strings.ToLower(strings.Trim(domain, ".")),
		services:   make(map[string]*service, len(s.Services)),
		namespaces: map[string]bool{},
		known:      s.Namespaces != nil,
		names:      map[netip.Addr][]string{},
		networks:   s.Networks,
	}
	for _, n := range s.Namespaces {
		z.namespaces[n] = true
	}
	unready := map[string]bool{} // services that publish endpoints which are not ready
	for _, svc := range s.Services {
		e := newService(svc)
		z.services[e.name] = e
		z.namespaces[svc.Namespace] = true
		unready[e.name] = svc.Spec.PublishNotReadyAddresses
		for _, a := range e.addresses {
			z.names[a] = append(z.names[a], e.name+".svc."+z.domain)
		}
	}
	for _, slice := range s.Slices {
		e := z.services[slice.Labels[discoveryv1.LabelServiceName]+"."+slice.Namespace]
		if e != nil && e.headless {
			e.addSlice(slice, unready[e.name])
		}
	}
	for _, e := range z.services {
		e.mergeHosts()
		for _, h := range e.hosts {
			z.names[h.address] = append(z.names[h.address], h.name+"."+e.name+".svc."+z.domain)
		}
	}
	for a := range z.names {
		slices.Sort(z.names[a])
	}
	return z
}

func newService(svc *corev1.Service) *service {
	e := &service{name: svc.Name + "." + svc.Namespace}
	for _, p := range svc.Spec.Ports {
		e.ports = append(e.ports, newPort(p.Name, p.Protocol, p.Port))
	}
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		e.external = strings.ToLower(strings.Trim(svc.Spec.ExternalName, "."))
		return e
	}
	e.headless = svc.Spec.ClusterIP == corev1.ClusterIPNone
	texts := svc.Spec.ClusterIPs
	if len(texts) == 0 {
		texts = []string{svc.Spec.ClusterIP}
	}
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil {
			e.addresses = append(e.addresses, a.Unmap())
		}
	}
	return e
}

func newPort(name string, protocol corev1.Protocol, number int32) port {
	return port{name, strings.ToLower(string(cmp.Or(protocol, corev1.ProtocolTCP))), uint16(number)}
}

func (e *service) addSlice(slice *discoveryv1.EndpointSlice, unready bool) {
	var ports []port
	for _, p := range slice.Ports {
		if p.Port == nil {
			continue
		}
		name, protocol := "", corev1.ProtocolTCP
		if p.Name != nil {
			name = *p.Name
		}
		if p.Protocol != nil {
			protocol = *p.Protocol
		}
		ports = append(ports, newPort(name, protocol, *p.Port))
	}
	for _, ep := range slice.Endpoints {
		if !unready && ep.Conditions.Ready != nil && !*ep.Conditions.Ready {
			continue
		}
		for _, text := range ep.Addresses {
			a, err := netip.ParseAddr(text)
			if err != nil {
				continue
			}
			a = a.Unmap()
			name := dashed(a)
			if ep.Hostname != nil && *ep.Hostname != "" {
				name = strings.ToLower(*ep.Hostname)
			}
			e.hosts = append(e.hosts, host{name, a, ports})
		}
	}
}

// mergeHosts sorts the hosts and joins the ports of one that several slices name.
func (e *service) mergeHosts() {
	slices.SortStableFunc(e.hosts, func(a, b host) int { return cmp.Or(a.address.Compare(b.address), cmp.Compare(a.name, b.name)) })
	merged := e.hosts[:0]
	for _, h := range e.hosts {
		if n := len(merged); n > 0 && merged[n-1].address == h.address && merged[n-1].name == h.name {
			h.ports = append(slices.Clone(merged[n-1].ports), h.ports...)
			merged = merged[:n-1]
		}
		slices.SortFunc(h.ports, comparePorts)
		h.ports = slices.Compact(h.ports)
		merged = append(merged, h)
	}
	e.hosts = merged
}

func comparePorts(a, b port) int {
	return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.protocol, b.protocol), cmp.Compare(a.number, b.number))
}

// dashed is the label that stands for an address: 10-42-0-5.
func dashed(a netip.Addr) string {
	return strings.NewReplacer(".", "-", ":", "-").Replace(a.String())
}

// undashed reads such a label.
func undashed(label string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(strings.ReplaceAll(label, "-", ".")); err == nil {
		return a, true
	}
	a, err := netip.ParseAddr(strings.ReplaceAll(label, "-", ":"))
	return a, err == nil
}
