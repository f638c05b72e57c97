// Package dns has a node's names answered from the node's own copy of the cluster's state.
package dns

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"lockstep/nodeagent/dns/names"
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

// DataOf is what a state's names depend on, under a domain such as "cluster.local". The same state gives the same data.
func DataOf(domain string, s State) names.Data {
	d := names.Data{Domain: strings.ToLower(strings.Trim(domain, ".")), Known: s.Namespaces != nil, Networks: s.Networks,
		Services: make([]names.Service, 0, len(s.Services))}
	namespaces := map[string]bool{} // that have services or exist
	for _, n := range s.Namespaces {
		namespaces[n] = true
	}
	unready := map[string]bool{} // services that publish endpoints which are not ready
	place := make(map[string]int, len(s.Services))
	for _, svc := range s.Services {
		e := newService(svc)
		place[e.Name] = len(d.Services)
		d.Services = append(d.Services, e)
		namespaces[svc.Namespace] = true
		unready[e.Name] = svc.Spec.PublishNotReadyAddresses
	}
	for _, slice := range s.Slices {
		name := slice.Labels[discoveryv1.LabelServiceName] + "." + slice.Namespace
		if i, ok := place[name]; ok && d.Services[i].Headless {
			addSlice(&d.Services[i], slice, unready[name])
		}
	}
	for i := range d.Services {
		mergeHosts(&d.Services[i])
	}
	slices.SortFunc(d.Services, func(a, b names.Service) int { return cmp.Compare(a.Name, b.Name) })
	d.Namespaces = slices.Sorted(maps.Keys(namespaces))
	return d
}

func newService(svc *corev1.Service) names.Service {
	e := names.Service{Name: svc.Name + "." + svc.Namespace}
	for _, p := range svc.Spec.Ports {
		e.Ports = append(e.Ports, newPort(p.Name, p.Protocol, p.Port))
	}
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		e.External = strings.ToLower(strings.Trim(svc.Spec.ExternalName, "."))
		return e
	}
	e.Headless = svc.Spec.ClusterIP == corev1.ClusterIPNone
	texts := svc.Spec.ClusterIPs
	if len(texts) == 0 {
		texts = []string{svc.Spec.ClusterIP}
	}
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil {
			e.Addresses = append(e.Addresses, a.Unmap())
		}
	}
	return e
}

func newPort(name string, protocol corev1.Protocol, number int32) names.Port {
	return names.Port{Name: name, Protocol: strings.ToLower(string(cmp.Or(protocol, corev1.ProtocolTCP))), Number: uint16(number)}
}

func addSlice(e *names.Service, slice *discoveryv1.EndpointSlice, unready bool) {
	var ports []names.Port
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
			name := names.Dashed(a)
			if ep.Hostname != nil && *ep.Hostname != "" {
				name = strings.ToLower(*ep.Hostname)
			}
			e.Hosts = append(e.Hosts, names.Host{Name: name, Address: a, Ports: ports})
		}
	}
}

// mergeHosts sorts the hosts and joins the ports of one that several slices name.
func mergeHosts(e *names.Service) {
	slices.SortStableFunc(e.Hosts, func(a, b names.Host) int { return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Name, b.Name)) })
	merged := e.Hosts[:0]
	for _, h := range e.Hosts {
		if n := len(merged); n > 0 && merged[n-1].Address == h.Address && merged[n-1].Name == h.Name {
			h.Ports = append(slices.Clone(merged[n-1].Ports), h.Ports...)
			merged = merged[:n-1]
		}
		slices.SortFunc(h.Ports, comparePorts)
		h.Ports = slices.Compact(h.Ports)
		merged = append(merged, h)
	}
	e.Hosts = merged
}

func comparePorts(a, b names.Port) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Number, b.Number))
}
