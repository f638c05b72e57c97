package plan

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"lockstep/internal/settings"
	"lockstep/kinds"
	"lockstep/store/view"
)

// Networks are what the addresses and node ports of services are allocated from, and what no service may have.
type Networks struct {
	// CIDRs are the service networks. None of a family: any address of it is taken to be in one.
	CIDRs []netip.Prefix
	// NodePorts are those that there are; the zero value: any.
	NodePorts settings.Ports
	// Reserved are addresses that only one service may have, by its namespace/name, also before that service exists.
	Reserved map[netip.Addr]string
	// Pods are the pod networks. API are addresses of API servers besides the endpoints of default/kubernetes.
	Pods []netip.Prefix
	API  []netip.Addr
	// Ports are what every node needs for itself, with what for; pods and services cannot have them.
	Ports map[int32]string
}

// scarce is an address or a node port, of which each is one service's alone: node ports by number, whatever the protocol,
// as Kubernetes' allocator counts them.
type scarce struct {
	addr netip.Addr
	port int32
}

// claim is a scarce value that a service has or states, with the path of its field.
type claim struct {
	scarce
	field string
}

func claims(o kinds.Object) []claim {
	s, ok := o.(*corev1.Service)
	if !ok {
		return nil
	}
	var out []claim
	if s.Spec.Type != corev1.ServiceTypeExternalName {
		addrs := s.Spec.ClusterIPs
		if len(addrs) == 0 {
			addrs = []string{s.Spec.ClusterIP}
		}
		for i, text := range addrs {
			field := "spec.clusterIP" // it is the first
			if i > 0 {
				field = fmt.Sprintf("spec.clusterIPs[%d]", i)
			}
			if addr, err := netip.ParseAddr(text); err == nil {
				out = append(out, claim{scarce{addr: addr}, field})
			}
		}
	}
	for i, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			out = append(out, claim{scarce{port: p.NodePort}, fmt.Sprintf("spec.ports[%d].nodePort", i)})
		}
	}
	if p := s.Spec.HealthCheckNodePort; p != 0 {
		out = append(out, claim{scarce{port: p}, "spec.healthCheckNodePort"})
	}
	return out
}

func has(o kinds.Object, v scarce) bool {
	return slices.ContainsFunc(claims(o), func(c claim) bool { return c.scarce == v })
}

// services finds the addresses and node ports that Kubernetes' allocators would refuse to the services that the steps
// write. A value that the same revision takes from another service is refused too: which of the two is written first
// would decide whether both ever have it.
func (d *decision) services(steps []Step) Problems {
	var problems Problems
	var holders map[scarce][]kinds.Key
	for _, s := range steps {
		for _, c := range claims(s.Object) {
			if s.Verb == Prune || s.Live != nil && has(s.Live, c.scarce) {
				continue
			}
			if holders == nil {
				holders = d.holders()
			}
			if reason := d.refuses(c.scarce, s.Key, holders[c.scarce], steps); reason != "" {
				problems = append(problems, Problem{Origin: s.Entry.Origin, Key: s.Key, Field: c.field, Message: c.field + ": " + reason})
			}
			holders[c.scarce] = append(holders[c.scarce], s.Key)
		}
	}
	return problems
}

// refuses words, as Kubernetes does, why a service cannot have a value; empty: it can.
func (d *decision) refuses(v scarce, service kinds.Key, holders []kinds.Key, steps []Step) string {
	what := "port"
	if v.addr.IsValid() {
		what = "IP"
		if cidr, outside := d.in.Services.outside(v.addr); outside {
			return fmt.Sprintf("failed to allocate IP %v: the provided IP (%[1]v) is not in the valid range. The range of valid IPs is %v",
				v.addr, cidr)
		}
		if owner, reserved := d.in.Services.Reserved[v.addr]; reserved && owner != service.Namespace+"/"+service.Name {
			return fmt.Sprintf("provided IP is already allocated to Service %s", owner)
		}
	}
	if ports := d.in.Services.NodePorts; v.port != 0 && !ports.None() {
		if reason := ports.Refuses(v.port); reason != "" {
			return reason
		}
	}
	i := slices.IndexFunc(holders, func(k kinds.Key) bool { return k != service })
	if i < 0 {
		return ""
	}
	reason := fmt.Sprintf("provided %s is already allocated to %v", what, holders[i])
	if slices.ContainsFunc(steps, func(s Step) bool { return s.Key == holders[i] && frees(s, v) }) {
		reason += "; free it in one commit and take it in the next"
	}
	return reason
}

// frees says that a step takes a value from the service that has it.
func frees(s Step, v scarce) bool {
	return s.Verb == Prune || s.Verb == Update && !has(s.Object, v)
}

// outside says that no service may have an address, and which network it would have to be of.
func (n Networks) outside(addr netip.Addr) (netip.Prefix, bool) {
	i := slices.IndexFunc(n.CIDRs, func(p netip.Prefix) bool { return p.Addr().Is4() == addr.Is4() })
	if i < 0 {
		return netip.Prefix{}, false
	}
	cidr := n.CIDRs[i].Masked()
	// Neither the network itself nor, with IPv4, its broadcast address is given to a service.
	edge := addr == cidr.Addr() || addr.Is4() && !cidr.Contains(addr.Next())
	return cidr, edge || !cidr.Contains(addr)
}

// holders are who has each address and node port: the services of the store, and those that other sources' accepted
// revisions state and that have not been written yet.
func (d *decision) holders() map[scarce][]kinds.Key {
	holders := map[scarce][]kinds.Key{}
	add := func(k kinds.Key, o kinds.Object) {
		for _, c := range claims(o) {
			holders[c.scarce] = append(holders[c.scarce], k)
		}
	}
	service := kinds.For[*corev1.Service]()
	for s := range view.List[*corev1.Service](d.in.View, "") {
		add(service.Key(s.Namespace, s.Name), s)
	}
	for _, other := range d.in.Others {
		for row, err := range Inventory.Rows(d.in.View, other+"/core/"+service.Resource+"/") {
			entry := row.Value
			if err != nil || entry.State != Pending {
				continue
			}
			if o, err := decode(entry.Key, entry.Object); err == nil {
				add(entry.Key, o)
			}
		}
	}
	return holders
}
