package rules

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Chains whose names do not depend on the input.
const (
	chainInput       = Prefix + "INPUT"
	chainForward     = Prefix + "FORWARD"
	chainOutput      = Prefix + "OUTPUT"
	chainRefuse      = Prefix + "REFUSE"
	chainRefusePorts = Prefix + "REFUSE-NODE"
	chainServices    = Prefix + "SERVICES"
	chainOffNetwork  = Prefix + "OFF-NETWORK"
	chainNode        = Prefix + "NODE"
	chainPostrouting = Prefix + "POSTROUTING"
	chainMasquerade  = Prefix + "MASQUERADE"
	chainHairpin     = Prefix + "HAIRPIN"
	chainEgress      = Prefix + "EGRESS"
)

// The mark of packets to be masqueraded is one bit that no well-known user of packet marks claims
// (kube-proxy 0x4000 and 0x8000, Cilium 0x0f00, Calico and Tailscale 0x00ff0000 and up).
const (
	setMark   = "-j MARK --set-xmark 0x2000/0x2000"
	clearMark = "-j MARK --set-xmark 0x0/0x2000"
	hasMark   = "-m mark --mark 0x2000/0x2000"
)

// DirectMark is the bit of the node's own connections to the API, which no service's rules apply to: what they learn from
// the API must not decide whether they reach it. It is as free as the other one.
const DirectMark = 0x1000

const isDirect = "-m mark --mark 0x1000/0x1000"

// masquerade picks its port at random: two CPUs that pick the next free one at once would lose a
// packet.
const masquerade = "-j MASQUERADE --random-fully"

// Compile is the rule set of an input. It is a pure function; a Compiler gives the same result
// faster when little has changed.
func Compile(in Input, family Family) *Ruleset { return NewCompiler(family).Compile(in) }

// Compiler remembers what each service compiled to, by the revisions of its objects, and the tree
// over them. It is for one goroutine.
type Compiler struct {
	family   Family
	scope    scope
	services map[serviceKey]*memo
	trees    trees
}

type serviceKey struct{ namespace, name string }

// memo is one service's part of the last result with what it was decided from.
type memo struct {
	svc    *corev1.Service
	slices []*discoveryv1.EndpointSlice
	out    *compiled
	stale  bool // the scope changed since

	// The next input's objects, between the collecting and the deciding half of Compile.
	nextService *corev1.Service
	nextSlices  []*discoveryv1.EndpointSlice
}

// trees are the dispatching rules over all services.
type trees struct {
	addresses []string // root rules
	ports     []string // root rules
	chains    []*Chain
}

// NewCompiler returns a Compiler that remembers nothing yet.
func NewCompiler(family Family) *Compiler {
	return &Compiler{family: family, services: map[serviceKey]*memo{}}
}

// Compile is the rule set of an input; what it returns is not changed by later calls.
func (c *Compiler) Compile(in Input) *Ruleset {
	next := scope{
		family:        c.family,
		node:          in.Node.Name,
		podNetworks:   c.family.prefixes(in.PodNetworks),
		localServices: c.family.addresses(in.LocalServices),
	}
	if !c.scope.equal(next) {
		c.scope = next
		for _, m := range c.services {
			m.stale = true
		}
	}
	if c.update(in) {
		c.trees = c.growTrees()
	}
	return c.assemble(in)
}

// update brings the memo of every service up to date and tells whether the trees must grow anew.
func (c *Compiler) update(in Input) (regrow bool) {
	for _, svc := range in.Services {
		key := serviceKey{svc.Namespace, svc.Name}
		m := c.services[key]
		if m == nil {
			m = &memo{}
			c.services[key] = m
		}
		m.nextService, m.nextSlices = svc, m.nextSlices[:0]
	}
	for _, s := range in.Slices {
		key := serviceKey{s.Namespace, s.Labels[discoveryv1.LabelServiceName]}
		if m := c.services[key]; m != nil {
			m.nextSlices = append(m.nextSlices, s)
		}
	}
	for key, m := range c.services {
		if m.nextService == nil {
			regrow = regrow || len(m.out.dispatch) > 0
			delete(c.services, key)
			continue
		}
		regrow = m.decide(c.scope) || regrow
	}
	return regrow
}

// decide takes the next objects and tells whether the service's dispatch changed.
func (m *memo) decide(s scope) bool {
	slices.SortFunc(m.nextSlices, func(a, b *discoveryv1.EndpointSlice) int { return cmp.Compare(a.Name, b.Name) })
	fresh := m.out != nil && !m.stale && sameRevision(m.svc, m.nextService) &&
		slices.EqualFunc(m.slices, m.nextSlices, sameRevision[*discoveryv1.EndpointSlice])
	changed := false
	if !fresh {
		out := compileService(s, m.nextService, m.nextSlices)
		changed = m.out == nil && len(out.dispatch) > 0 || m.out != nil && !m.out.sameDispatch(out)
		if m.out != nil {
			out.keep(m.out)
		}
		m.out, m.stale = out, false
	}
	m.svc, m.nextService = m.nextService, nil
	m.slices, m.nextSlices = m.nextSlices, m.slices
	clear(m.nextSlices)
	return changed
}

// keep replaces chains by the old ones that are equal, so that comparing them later is comparing
// pointers.
func (c *compiled) keep(old *compiled) {
	before := make(map[ChainID]*Chain, len(old.chains))
	for _, chain := range old.chains {
		before[chain.ChainID] = chain
	}
	for i, chain := range c.chains {
		if was := before[chain.ChainID]; was != nil && chain.Equal(was) {
			c.chains[i] = was
		}
	}
}

// sameRevision tells whether two versions of an object are one. Objects that never were in a store
// have no revision and are one only if they are the same value in memory.
func sameRevision[T interface {
	comparable
	GetResourceVersion() string
	GetUID() types.UID
}](a, b T) bool {
	return a == b || a.GetResourceVersion() != "" && a.GetResourceVersion() == b.GetResourceVersion() && a.GetUID() == b.GetUID()
}

func (c *Compiler) growTrees() trees {
	var addresses []leaf
	var ports []dispatch
	for _, m := range c.services {
		for _, d := range m.out.dispatch {
			if d.address.IsValid() {
				addresses = append(addresses, leaf{addressKey(d.address), d.rules})
			} else {
				ports = append(ports, d)
			}
		}
	}
	var t trees
	var addressChains, portChains []*Chain
	t.addresses, addressChains = grow(addresses, destinations())
	t.ports, portChains = growPorts(NAT, ports)
	t.chains = slices.Concat(addressChains, portChains)
	return t
}

// growPorts makes a tree of node ports for each protocol.
func growPorts(table string, ports []dispatch) (root []string, chains []*Chain) {
	for _, protocol := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP} {
		var leaves []leaf
		for _, d := range ports {
			if d.protocol == protocol {
				leaves = append(leaves, leaf{portKey(d.nodePort), d.rules})
			}
		}
		more, grown := grow(leaves, portForm(table, protocol))
		root, chains = append(root, more...), append(chains, grown...)
	}
	return root, chains
}

// assemble puts the services' chains, the trees and the fixed chains together.
func (c *Compiler) assemble(in Input) *Ruleset {
	r := &Ruleset{
		Chains: make(map[ChainID]*Chain, 2*len(c.services)+len(c.trees.chains)+16),
		UDP:    UDP{Addresses: map[netip.AddrPort][]netip.AddrPort{}, NodePorts: map[uint16][]netip.AddrPort{}},
	}
	var refused []string
	var refusedPorts []dispatch
	var local []netip.Addr
	for _, m := range c.services {
		for _, chain := range m.out.chains {
			r.Chains[chain.ChainID] = chain
		}
		refused = append(refused, m.out.refuse...)
		refusedPorts = append(refusedPorts, m.out.refusePorts...)
		local = append(local, m.out.local...)
		for _, u := range m.out.udp {
			if u.address.IsValid() {
				r.UDP.Addresses[u.address] = u.endpoints
			} else {
				r.UDP.NodePorts[u.nodePort] = u.endpoints
			}
		}
	}
	ports := c.hostPorts(in.HostPorts)
	hostRules := make([]string, len(ports))
	for i, p := range ports {
		hostRules[i] = hostPortRule(p)
		local = append(local, p.PodIP)
		if protocolOf(p.Protocol) == corev1.ProtocolUDP {
			to := []netip.AddrPort{netip.AddrPortFrom(p.PodIP, p.Port)}
			if specific(p.HostIP) {
				r.UDP.Addresses[netip.AddrPortFrom(p.HostIP, p.HostPort)] = to
			} else {
				r.UDP.NodePorts[p.HostPort] = to
			}
		}
	}
	// A process in the node's own network reaches itself over the loopback link, untranslated.
	local = slices.DeleteFunc(local, func(a netip.Addr) bool { return slices.Contains(in.Node.Addresses, a) })
	refusedRoot, refusedChains := growPorts(Filter, refusedPorts)
	hairpinRoot, hairpinChains := grow(hairpins(local), sources())
	for _, chain := range slices.Concat(c.trees.chains, refusedChains, hairpinChains) {
		r.Chains[chain.ChainID] = chain
	}
	f := fixed{
		scope:        c.scope,
		services:     c.family.prefixes(in.ServiceNetworks),
		pods:         c.family.prefixes(in.Node.PodCIDRs),
		localhost:    in.LocalhostPorts && c.family == IPv4,
		servers:      servers(c.family, in),
		refused:      sortedUnique(refused, strings.Compare),
		refusedPorts: refusedRoot,
		hairpins:     hairpinRoot,
		hostPorts:    hostRules,
		addressRoots: c.trees.addresses,
		portRoots:    c.trees.ports,
	}
	for _, chain := range f.chains() {
		r.Chains[chain.ChainID] = chain
	}
	return r
}

// hostPorts are the valid host ports of the family, in the order of their rules: those of one
// address before those of every address.
func (c *Compiler) hostPorts(all []HostPort) []HostPort {
	var out []HostPort
	for _, p := range all {
		if c.family.Has(p.PodIP) && p.Port != 0 && p.HostPort != 0 && (!specific(p.HostIP) || c.family.Has(p.HostIP)) {
			out = append(out, p)
		}
	}
	return sortedUnique(out, func(a, b HostPort) int {
		return cmp.Or(-compareBools(specific(a.HostIP), specific(b.HostIP)), a.HostIP.Compare(b.HostIP), cmp.Compare(a.HostPort, b.HostPort),
			cmp.Compare(a.Protocol, b.Protocol), a.PodIP.Compare(b.PodIP), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Pod, b.Pod))
	})
}

// specific tells whether a host port is bound to one address.
func specific(a netip.Addr) bool { return a.IsValid() && !a.IsUnspecified() }

// maxComment is what the kernel keeps of a comment, in bytes (XT_MAX_COMMENT_LEN with its NUL); what is longer would read
// back as another rule. Only a pod's name with its namespace is.
const maxComment = 255

func hostPortRule(p HostPort) string {
	proto, destination := strings.ToLower(string(protocolOf(p.Protocol))), ""
	if specific(p.HostIP) {
		destination = "-d " + host(p.HostIP) + " "
	}
	return fmt.Sprintf("%s-p %s -m comment --comment \"%s\" -m %s --dport %d -j DNAT --to-destination %s",
		destination, proto, p.Pod[:min(len(p.Pod), maxComment)], proto, p.HostPort, netip.AddrPortFrom(p.PodIP, p.Port))
}
