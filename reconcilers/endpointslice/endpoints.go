package endpointslice

import (
	"cmp"
	"encoding/json"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"lockstep/kinds/podstatus"
	"lockstep/store/view"
)

// group is the endpoints that have the same ports: pods may give a named port different numbers.
type group struct {
	id        string // the same for equal ports
	ports     []discoveryv1.EndpointPort
	endpoints []discoveryv1.Endpoint // in the order of their pods' names
}

// groups makes an endpoint of every pod that can have one, in order of their ids.
func groups(v *view.View, s *corev1.Service, family discoveryv1.AddressType, selected []*corev1.Pod) []*group {
	byPorts := map[string]*group{}
	for _, p := range selected {
		addresses := addressesOf(p, family)
		if podstatus.Finished(&p.Status) || len(addresses) == 0 {
			continue
		}
		ports := portsOf(s, p)
		id := portsID(ports)
		g := byPorts[id]
		if g == nil {
			g = &group{id: id, ports: ports}
			byPorts[id] = g
		}
		g.endpoints = append(g.endpoints, endpointOf(v, s, p, addresses))
	}
	sorted := make([]*group, 0, len(byPorts))
	for _, g := range byPorts {
		sorted = append(sorted, g)
	}
	slices.SortFunc(sorted, func(a, b *group) int { return cmp.Compare(a.id, b.id) })
	return sorted
}

// endpointOf is the endpoint of a pod. Serving is its own readiness; ready is also that it is not ending, except where
// the service publishes whatever there is.
func endpointOf(v *view.View, s *corev1.Service, p *corev1.Pod, addresses []string) discoveryv1.Endpoint {
	serving, terminating := podstatus.Ready(&p.Status), p.DeletionTimestamp != nil
	ready := s.Spec.PublishNotReadyAddresses || (serving && !terminating)
	e := discoveryv1.Endpoint{
		Addresses:  addresses,
		Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
		TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID},
	}
	if name := p.Spec.NodeName; name != "" {
		e.NodeName = &name
		if node, ok := view.Get[*corev1.Node](v, "", name); ok {
			if zone := node.Labels[corev1.LabelTopologyZone]; zone != "" {
				e.Zone = &zone
			}
		}
	}
	if p.Spec.Hostname != "" && p.Spec.Subdomain == s.Name {
		hostname := p.Spec.Hostname
		e.Hostname = &hostname
	}
	return e
}

func addressesOf(p *corev1.Pod, family discoveryv1.AddressType) (addresses []string) {
	ips := p.Status.PodIPs
	if len(ips) == 0 && p.Status.PodIP != "" {
		ips = []corev1.PodIP{{IP: p.Status.PodIP}}
	}
	for _, ip := range ips {
		addr, err := netip.ParseAddr(ip.IP)
		if err == nil && addr.Is4() == (family == discoveryv1.AddressTypeIPv4) {
			addresses = append(addresses, ip.IP)
		}
	}
	return addresses
}

// portsOf resolves the service's ports at a pod; a named port that the pod has not is left out. A headless service
// without ports has endpoints without.
func portsOf(s *corev1.Service, p *corev1.Pod) []discoveryv1.EndpointPort {
	ports := []discoveryv1.EndpointPort{}
	for i := range s.Spec.Ports {
		sp := &s.Spec.Ports[i]
		number, ok := targetPort(sp, p)
		if !ok {
			continue
		}
		name, protocol := sp.Name, sp.Protocol
		ports = append(ports, discoveryv1.EndpointPort{Name: &name, Port: &number, Protocol: &protocol, AppProtocol: sp.AppProtocol})
	}
	return ports
}

func targetPort(sp *corev1.ServicePort, p *corev1.Pod) (int32, bool) {
	if sp.TargetPort.Type == intstr.Int {
		if sp.TargetPort.IntVal == 0 {
			return sp.Port, true
		}
		return sp.TargetPort.IntVal, true
	}
	named := func(containers []corev1.Container) (int32, bool) {
		for _, c := range containers {
			for _, port := range c.Ports {
				if port.Name == sp.TargetPort.StrVal && port.Protocol == sp.Protocol {
					return port.ContainerPort, true
				}
			}
		}
		return 0, false
	}
	if number, ok := named(p.Spec.Containers); ok {
		return number, true
	}
	return named(slices.DeleteFunc(slices.Clone(p.Spec.InitContainers), func(c corev1.Container) bool {
		return !podstatus.Sidecar(&c)
	}))
}

// portsID is the same for the same ports in whatever order.
func portsID(ports []discoveryv1.EndpointPort) string {
	texts := make([]string, len(ports))
	for i, p := range ports {
		text, err := json.Marshal(p)
		if err != nil {
			panic("endpointslice: a port has no JSON form: " + err.Error())
		}
		texts[i] = string(text)
	}
	slices.Sort(texts)
	id, err := json.Marshal(texts)
	if err != nil {
		panic("endpointslice: strings have no JSON form: " + err.Error())
	}
	return string(id)
}

// podOf names the pod behind an endpoint, by uid.
func podOf(e *discoveryv1.Endpoint) types.UID {
	if e.TargetRef == nil {
		return ""
	}
	return e.TargetRef.UID
}
