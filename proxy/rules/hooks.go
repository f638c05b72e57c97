package rules

import "net/netip"

// hook is a place in a chain that every node has. Parts add their rules at hooks, and know of each other nothing else.
type hook int

// The hooks, chain by chain, in the order in which packets come to them.
const (
	inputGuard  hook = iota // what must not reach the node, whoever else says so
	inputAccept             // what pods may ask the node
	inputRefuse             // what is addressed to a service that nobody answers

	forwardRefuse // the same, on its way through
	forwardAccept // what pods send and get

	outputRefuse // the same, from the node itself

	refuseExempt    // what is never refused
	refuseAddresses // addresses from outside that nobody answers
	refuseNode      // the node's own addresses

	dispatchExempt    // what is never translated
	dispatchAddresses // services' addresses
	dispatchNode      // the node's own addresses

	nodeExempt    // what is never translated there
	nodeHostPorts // pods' ports
	nodePorts     // services' ports

	leaveMarked  // what is masqueraded whoever sent it
	leaveHairpin // a pod to itself
	leaveEgress  // pods to the outside

	hooks // their number
)

// place is a chain with its hooks in order.
type place struct {
	ChainID
	hooks []hook
}

// layout lists the chains that parts fill together; those of one part are its own.
func layout() []place {
	return []place{
		{ChainID{Filter, chainInput}, []hook{inputGuard, inputAccept, inputRefuse}},
		{ChainID{Filter, chainForward}, []hook{forwardRefuse, forwardAccept}},
		{ChainID{Filter, chainOutput}, []hook{outputRefuse}},
		{ChainID{Filter, chainRefuse}, []hook{refuseExempt, refuseAddresses, refuseNode}},
		{ChainID{NAT, chainServices}, []hook{dispatchExempt, dispatchAddresses, dispatchNode}},
		{ChainID{NAT, chainNode}, []hook{nodeExempt, nodeHostPorts, nodePorts}},
		{ChainID{NAT, chainPostrouting}, []hook{leaveMarked, leaveHairpin, leaveEgress}},
	}
}

// part is one concern of a rule set.
type part interface {
	// fill adds the part's rules to a board. It only reads the input, and may remember what it made of it.
	fill(b *board, s setting, in Input)
}

// setting is what all parts share of an input, its family's alone.
type setting struct {
	scope
	services  []netip.Prefix   // networks of the cluster IPs
	servers   []netip.AddrPort // of the API
	localhost bool             // the node's ports answer on 127.0.0.1
}

func settingOf(family Family, in Input) setting {
	return setting{
		scope: scope{
			family:        family,
			node:          in.Node.Name,
			pods:          family.prefixes(in.Node.PodCIDRs),
			podNetworks:   family.prefixes(in.PodNetworks),
			localServices: family.addresses(in.LocalServices),
		},
		services:  family.prefixes(in.ServiceNetworks),
		servers:   servers(family, in),
		localhost: in.LocalhostPorts && family == IPv4,
	}
}

// board is where parts put what a rule set is made of.
type board struct {
	at     [hooks][]string
	chains map[ChainID]*Chain
	udp    UDP
	// reached are addresses that something leads to, those of this node's pods among them.
	reached []netip.Addr
}

func newBoard(in Input) *board {
	return &board{
		chains: make(map[ChainID]*Chain, 3*len(in.Services)+16), // a tree's chain for some services, one or two for each
		udp:    UDP{Addresses: map[netip.AddrPort][]netip.AddrPort{}, NodePorts: map[uint16][]netip.AddrPort{}},
	}
}

// add puts rules at a hook, after those that are there.
func (b *board) add(h hook, rules ...string) { b.at[h] = append(b.at[h], rules...) }

// own adds chains that are one part's.
func (b *board) own(chains ...*Chain) {
	for _, c := range chains {
		b.chains[c.ChainID] = c
	}
}

// answered says who answers datagrams; of two that say it of one address the later is right.
func (b *board) answered(u udpEntry) {
	if u.address.IsValid() {
		b.udp.Addresses[u.address] = u.endpoints
	} else {
		b.udp.NodePorts[u.nodePort] = u.endpoints
	}
}

func (b *board) ruleset() *Ruleset {
	for _, p := range layout() {
		c := &Chain{ChainID: p.ChainID}
		for _, h := range p.hooks {
			c.Rules = append(c.Rules, b.at[h]...)
		}
		b.chains[c.ChainID] = c
	}
	return &Ruleset{Chains: b.chains, UDP: b.udp}
}
