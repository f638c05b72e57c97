// Package serviceip allocates the addresses and node ports of Services.
package serviceip

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"lockstep/internal/settings"
	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// Options say what there is to allocate from.
type Options struct {
	// CIDRs are the cluster's service networks; the first of a family counts, and the first of all is the family of a
	// service that asks for none.
	CIDRs []netip.Prefix
	// NodePorts are those that there are.
	NodePorts settings.Ports
	// Reserved are addresses that only one service may have, by its namespace/name.
	Reserved map[netip.Addr]string
}

// New returns the reconciler of service addresses and node ports.
func New(o Options) loop.Reconciler {
	service := kinds.For[*corev1.Service]()
	return loop.Reconciler{
		Name:      "serviceip",
		Component: "ipallocator-controller",
		Single:    true,
		Reads: []loop.Read{{
			Kind: service,
			How:  "all services are decided together",
			Keys: loop.Cluster,
			Changed: func(old, new kinds.Object) bool {
				return !equality.Semantic.DeepEqual(old.(*corev1.Service).Spec, new.(*corev1.Service).Spec)
			},
		}},
		Writes: []loop.Write{{
			Kind: service,
			Fields: []string{
				"spec.clusterIP", "spec.clusterIPs", "spec.ipFamilies", "spec.ipFamilyPolicy", "spec.ports", "spec.healthCheckNodePort",
			},
			Shared: map[string]string{"spec.ports": "only node ports are set, of which the cluster's own services have none"},
		}},
		Decide: func(v *view.View, _ kinds.Key, _ time.Time) (loop.Decision, error) { return decide(v, o), nil },
	}
}

func decide(v *view.View, o Options) loop.Decision {
	services := slices.SortedFunc(view.List[*corev1.Service](v, ""), func(a, b *corev1.Service) int {
		return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) // stable for equal times: the view is in order of names
	})
	a := newAllocation(o)
	var d loop.Decision
	for _, s := range services {
		d.Events = append(d.Events, a.take(s)...)
	}
	for _, s := range services {
		if s.DeletionTimestamp != nil {
			continue
		}
		changed := s.DeepCopy()
		problems := a.give(changed)
		if len(problems) > 0 {
			for _, p := range problems {
				d.Events = append(d.Events, warning(s, "FailedAllocation", p))
			}
		}
		if !equality.Semantic.DeepEqual(s, changed) {
			d.Wants = append(d.Wants, loop.Want{Object: changed, Reason: "needs an address or node port"})
		}
	}
	return d
}

func warning(s *corev1.Service, reason, message string) loop.Event {
	return loop.Event{About: s, Type: corev1.EventTypeWarning, Reason: reason, Message: message}
}

// hasAddress says that a service of its type has a cluster address, unless it is headless.
func hasAddress(s *corev1.Service) bool {
	return s.Spec.Type != corev1.ServiceTypeExternalName && s.Spec.ClusterIP != corev1.ClusterIPNone
}

// hasNodePorts says that a service of its type has node ports.
func hasNodePorts(s *corev1.Service) bool {
	switch s.Spec.Type {
	case corev1.ServiceTypeNodePort:
		return true
	case corev1.ServiceTypeLoadBalancer:
		return s.Spec.AllocateLoadBalancerNodePorts == nil || *s.Spec.AllocateLoadBalancerNodePorts
	}
	return false
}

// allocation is what is taken, by services' namespace/name.
type allocation struct {
	Options
	addrs map[netip.Addr]string
	ports map[int32]string
}

func newAllocation(o Options) *allocation {
	a := &allocation{Options: o, addrs: map[netip.Addr]string{}, ports: map[int32]string{}}
	for addr, service := range o.Reserved {
		a.addrs[addr] = service
	}
	return a
}

// take notes what a service has, and says where it may not have it: where an older service has it already, or where it
// is out of range. Such a service keeps its value, which is not for the allocator to change, but gets an event.
func (a *allocation) take(s *corev1.Service) (events []loop.Event) {
	name := s.Namespace + "/" + s.Name
	if hasAddress(s) {
		for _, text := range s.Spec.ClusterIPs {
			addr, err := netip.ParseAddr(text)
			if err != nil {
				continue // validation does not let it in
			}
			switch holder, taken := a.addrs[addr]; {
			case taken && holder != name:
				events = append(events, warning(s, "ClusterIPAlreadyAllocated",
					fmt.Sprintf("Cluster IP %s is already allocated to service %s; please state another one or none", text, holder)))
			case !slices.ContainsFunc(a.CIDRs, func(p netip.Prefix) bool { return p.Contains(addr) }):
				events = append(events, warning(s, "ClusterIPOutOfRange",
					fmt.Sprintf("Cluster IP %s is not within any service CIDR; please state another one or none", text)))
			default:
				a.addrs[addr] = name
			}
		}
	}
	for _, port := range nodePorts(s) {
		switch holder, taken := a.ports[port]; {
		case taken && holder != name:
			events = append(events, warning(s, "PortAlreadyAllocated",
				fmt.Sprintf("Port %d is already allocated to service %s; please state another one or none", port, holder)))
		case int(port) < a.NodePorts[0] || int(port) > a.NodePorts[1]:
			events = append(events, warning(s, "PortOutOfRange",
				fmt.Sprintf("Port %d is not within the port range %d-%d; please state another one or none", port,
					a.NodePorts[0], a.NodePorts[1])))
		default:
			a.ports[port] = name
		}
	}
	return events
}

func nodePorts(s *corev1.Service) (ports []int32) {
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			ports = append(ports, p.NodePort)
		}
	}
	if s.Spec.HealthCheckNodePort != 0 {
		ports = append(ports, s.Spec.HealthCheckNodePort)
	}
	return ports
}

// give sets in place what the service lacks, and says what it cannot have.
func (a *allocation) give(s *corev1.Service) (problems []string) {
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	if problem := a.giveFamilies(s); problem != "" {
		return []string{problem}
	}
	if hasAddress(s) {
		problems = append(problems, a.giveAddresses(s)...)
	}
	if hasNodePorts(s) {
		problems = append(problems, a.giveNodePorts(s)...)
	}
	return problems
}

func (a *allocation) giveNodePorts(s *corev1.Service) (problems []string) {
	name := s.Namespace + "/" + s.Name
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.NodePort != 0 {
			continue
		}
		if p.NodePort = sharedNodePort(s, i); p.NodePort != 0 {
			continue
		}
		port, ok := a.freePort(string(s.UID) + p.Name)
		if !ok {
			return append(problems, "no node port is free")
		}
		p.NodePort, a.ports[port] = port, name
	}
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal &&
		s.Spec.HealthCheckNodePort == 0 {
		port, ok := a.freePort(string(s.UID))
		if !ok {
			return append(problems, "no node port is free for the health check")
		}
		s.Spec.HealthCheckNodePort, a.ports[port] = port, name
	}
	return problems
}

// sharedNodePort returns the node port of the service's port with the same number and another protocol, if it has one:
// a name server's two ports are one to its users.
func sharedNodePort(s *corev1.Service, i int) int32 {
	for j, other := range s.Spec.Ports {
		if j != i && other.Port == s.Spec.Ports[i].Port && other.Protocol != s.Spec.Ports[i].Protocol && other.NodePort != 0 {
			return other.NodePort
		}
	}
	return 0
}
