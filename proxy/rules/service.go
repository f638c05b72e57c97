package rules

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"iter"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// defaultAffinity is Kubernetes' timeout of ClientIP affinity: three hours, in seconds.
const defaultAffinity = 10800

// dispatch is one entry of a tree: what happens to packets for one address, or one node port.
type dispatch struct {
	address  netip.Addr // zero: nodePort
	nodePort uint16
	protocol corev1.Protocol
	rules    []string
}

// compiled is everything that one service adds to the rules. It is immutable.
type compiled struct {
	chains   []*Chain
	dispatch []dispatch
	// What has an address from outside but nobody to answer: filter rules of external addresses,
	// and of node ports.
	refuse      []string
	refusePorts []dispatch

	local []netip.Addr
	udp   []udpEntry
}

type udpEntry struct {
	address   netip.AddrPort // zero: nodePort
	nodePort  uint16
	endpoints []netip.AddrPort
}

// sameDispatch tells whether both lead packets to their chains in the same way, so that nothing
// outside the service's own chains differs.
func (c *compiled) sameDispatch(other *compiled) bool {
	return slices.EqualFunc(c.dispatch, other.dispatch, func(a, b dispatch) bool {
		return a.address == b.address && a.nodePort == b.nodePort && a.protocol == b.protocol && slices.Equal(a.rules, b.rules)
	})
}

// scope is the part of an Input that a service's rules depend on besides itself and its slices.
type scope struct {
	family        Family
	node          string
	pods          []netip.Prefix // networks of this node's pods
	podNetworks   []netip.Prefix
	localServices []netip.Addr
}

func (s scope) equal(o scope) bool {
	return s.family == o.family && s.node == o.node && slices.Equal(s.pods, o.pods) && slices.Equal(s.podNetworks, o.podNetworks) &&
		slices.Equal(s.localServices, o.localServices)
}

// compileService decides what one service adds. A headless or ExternalName service adds nothing.
func compileService(s scope, svc *corev1.Service, list []*discoveryv1.EndpointSlice) *compiled {
	out := &compiled{}
	clusterIPs := s.clusterIPs(svc)
	if len(clusterIPs) == 0 {
		return out
	}
	var external []netip.Addr
	for text := range outside(svc) {
		if a, ok := s.family.parse(text); ok {
			external = append(external, a)
		}
	}
	external = sortedUnique(external, netip.Addr.Compare)
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		s.compilePort(out, svc, p, clusterIPs, external, selectEndpoints(s.family, p, list, s.node))
	}
	out.local = sortedUnique(out.local, netip.Addr.Compare)
	return out
}

// outside yields the addresses at which a service is reached from outside: those that its manifest states, and of one with a load
// balancer those whose packets it leaves to the nodes.
func outside(svc *corev1.Service) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, text := range svc.Spec.ExternalIPs {
			if !yield(text) {
				return
			}
		}
		if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
			return
		}
		for i := range svc.Status.LoadBalancer.Ingress {
			at := &svc.Status.LoadBalancer.Ingress[i]
			if sentOn := at.IPMode != nil && *at.IPMode == corev1.LoadBalancerIPModeProxy; !sentOn && !yield(at.IP) {
				return
			}
		}
	}
}

// clusterIPs are the addresses of the family at which rules must act.
func (s scope) clusterIPs(svc *corev1.Service) []netip.Addr {
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	texts := svc.Spec.ClusterIPs
	if len(texts) == 0 {
		texts = []string{svc.Spec.ClusterIP}
	}
	var out []netip.Addr
	for _, text := range texts {
		if a, ok := s.family.parse(text); ok && !slices.Contains(s.localServices, a) {
			out = append(out, a)
		}
	}
	return out
}

func (s scope) compilePort(out *compiled, svc *corev1.Service, p *corev1.ServicePort, clusterIPs, external []netip.Addr, to endpoints) {
	port, protocol := uint16(p.Port), protocolOf(p.Protocol)
	proto := strings.ToLower(string(protocol))
	id := portID(svc, p)
	internalLocal := svc.Spec.InternalTrafficPolicy != nil && *svc.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal
	externalLocal := svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	hasExternal := len(external) > 0 || p.NodePort != 0

	// The chains with the endpoints, each only if something leads to it.
	all, local := "", ""
	if len(to.all) > 0 && (!internalLocal || hasExternal) {
		all = chainName("SVC", id)
		out.chains = append(out.chains, s.balance(all, id, proto, to.all, svc))
	}
	if len(to.local) > 0 && (internalLocal || externalLocal && hasExternal) {
		local = chainName("LCL", id)
		out.chains = append(out.chains, s.balance(local, id, proto, to.local, svc))
	}
	for _, e := range to.all {
		// Endpoints that somebody wrote need not name the node of a pod.
		if e.local || slices.ContainsFunc(s.pods, func(p netip.Prefix) bool { return p.Contains(e.Addr()) }) {
			out.local = append(out.local, e.Addr())
		}
	}

	// From inside: the cluster IP. Without a chain the address has no rule and is rejected with
	// the rest of the service network.
	target, answers := all, to.all
	if internalLocal {
		target, answers = local, to.local
	}
	for _, ip := range clusterIPs {
		if target != "" {
			out.dispatch = append(out.dispatch, dispatch{address: ip, protocol: protocol, rules: []string{
				fmt.Sprintf("-d %s -p %s -m comment --comment \"%s\" -m %s --dport %d -j %s", host(ip), proto,
					comment(svc, p), proto, port, target),
			}})
		}
		if protocol == corev1.ProtocolUDP {
			out.udp = append(out.udp, udpEntry{address: netip.AddrPortFrom(ip, port), endpoints: addrPorts(answers)})
		}
	}

	// From outside: node port and external addresses.
	for _, ip := range external {
		match := "-d " + host(ip) + " "
		if rules := s.external(match, proto, port, all, local, externalLocal); len(rules) > 0 {
			out.dispatch = append(out.dispatch, dispatch{address: ip, protocol: protocol, rules: rules})
		}
		out.refuse = append(out.refuse, s.refuse(match, proto, port, len(to.all), local, externalLocal)...)
		if protocol == corev1.ProtocolUDP {
			out.udp = append(out.udp, udpEntry{address: netip.AddrPortFrom(ip, port), endpoints: addrPorts(to.all)})
		}
	}
	if p.NodePort != 0 {
		number := uint16(p.NodePort)
		if rules := s.external("", proto, number, all, local, externalLocal); len(rules) > 0 {
			out.dispatch = append(out.dispatch, dispatch{nodePort: number, protocol: protocol, rules: rules})
		}
		if rules := s.refuse("", proto, number, len(to.all), local, externalLocal); len(rules) > 0 {
			out.refusePorts = append(out.refusePorts, dispatch{nodePort: number, protocol: protocol, rules: rules})
		}
		if protocol == corev1.ProtocolUDP {
			out.udp = append(out.udp, udpEntry{nodePort: number, endpoints: addrPorts(to.all)})
		}
	}
}

// external are the rules of one address from outside. Under the policy Cluster its traffic is
// masqueraded, for an endpoint on another node would answer the client past this node; under
// Local the client's address stays and only this node's endpoints answer, except to pods and the
// node itself, which are not outside.
func (s scope) external(match, proto string, port uint16, all, local string, onlyLocal bool) []string {
	if all == "" {
		return nil
	}
	rule := func(source, more, target string) string {
		return fmt.Sprintf("%s%s-p %s %s-m %s --dport %d %s", source, match, proto, more, proto, port, target)
	}
	if !onlyLocal {
		return []string{rule("", "", setMark), rule("", "", "-j "+all)}
	}
	var out []string
	for _, n := range s.podNetworks {
		out = append(out, rule("-s "+n.String()+" ", "", "-j "+all))
	}
	const ownSource = "-m addrtype --src-type LOCAL "
	out = append(out, rule("", ownSource, setMark), rule("", ownSource, "-j "+all))
	if local != "" {
		out = append(out, rule("", "", "-j "+local))
	}
	return out
}

// refuse are the filter rules of an address from outside that nobody answers: rejected if the
// service has no endpoint, dropped if only this node has none, for a load balancer shall then try
// another node (as Kubernetes does).
func (s scope) refuse(match, proto string, port uint16, all int, local string, onlyLocal bool) []string {
	target := s.family.reject()
	if all > 0 {
		if !onlyLocal || local != "" {
			return nil
		}
		target = "-j DROP"
	}
	return []string{fmt.Sprintf("%s-p %s -m %s --dport %d %s", match, proto, proto, port, target)}
}

// balance is the chain that picks one of the endpoints, each with the same probability, and with
// ClientIP affinity first the one that the client had before.
func (s scope) balance(name, id, proto string, to []endpoint, svc *corev1.Service) *Chain {
	c := &Chain{ChainID: ChainID{NAT, name}}
	remember := make([]string, len(to))
	if svc.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		seconds := int32(defaultAffinity)
		if a := svc.Spec.SessionAffinityConfig; a != nil && a.ClientIP != nil && a.ClientIP.TimeoutSeconds != nil {
			seconds = *a.ClientIP.TimeoutSeconds
		}
		for i, e := range to {
			list := fmt.Sprintf("--name %s --mask %s --rsource ", Prefix+hash(id+" "+e.String()), s.family.mask())
			remember[i] = "-m recent --set " + list
			c.Rules = append(c.Rules, fmt.Sprintf("-p %s -m recent --update --seconds %d --reap %s-j DNAT --to-destination %s",
				proto, seconds, list, e))
		}
	}
	for i, e := range to {
		c.Rules = append(c.Rules, fmt.Sprintf("-p %s %s%s-j DNAT --to-destination %s", proto, oneOf(len(to)-i), remember[i], e))
	}
	return c
}

// oneOf matches one packet in n, with the probability spelled as iptables-save does: the kernel
// keeps it as a fraction of 1<<31.
func oneOf(n int) string {
	if n == 1 {
		return ""
	}
	const unit = 1 << 31
	p := math.Round(unit/float64(n)) / unit
	return "-m statistic --mode random --probability " + strconv.FormatFloat(p, 'f', 11, 64) + " "
}

// portID identifies a service's port for as long as its rules mean the same one.
func portID(svc *corev1.Service, p *corev1.ServicePort) string {
	return fmt.Sprintf("%s/%s:%s:%s", svc.Namespace, svc.Name, p.Name, protocolOf(p.Protocol))
}

// comment names the port for people who read the rules; the characters of names need no quotes.
func comment(svc *corev1.Service, p *corev1.ServicePort) string {
	if p.Name == "" {
		return svc.Namespace + "/" + svc.Name
	}
	return svc.Namespace + "/" + svc.Name + ":" + p.Name
}

func chainName(kind, id string) string { return Prefix + kind + "-" + hash(id) }

// maxName is what a chain's name has at most, in characters (XT_EXTENSION_MAXNAMELEN, without its NUL).
const maxName = 28

// hash is 15 characters of 5 bits: a name has no room for more, and two of 10,000
// names meet with a probability of 1e-15.
func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base32.StdEncoding.EncodeToString(sum[:])[:15]
}

// host spells an address as a rule's match does.
func host(a netip.Addr) string { return netip.PrefixFrom(a, a.BitLen()).String() }
