package rules

import (
	"fmt"
	"net/netip"
)

// fixed is what the chains that every node has are made from.
type fixed struct {
	scope
	services     []netip.Prefix   // networks of the cluster IPs
	pods         []netip.Prefix   // networks of this node's pods
	servers      []netip.AddrPort // of the API
	localhost    bool
	refused      []string // rules of external addresses
	refusedPorts []string // rules of node ports
	hairpins     []string // rules of pods that reach themselves
	hostPorts    []string
	addressRoots []string
	portRoots    []string
}

func (f fixed) chains() []*Chain {
	return []*Chain{
		{ChainID{Filter, chainInput}, f.input()},
		{ChainID{Filter, chainForward}, f.forward()},
		{ChainID{Filter, chainOutput}, f.output()},
		{ChainID{Filter, chainRefuse}, append(append(f.direct(), f.refused...), "-m addrtype --dst-type LOCAL -j "+chainRefusePorts)},
		{ChainID{Filter, chainRefusePorts}, f.refusedPorts},
		{ChainID{NAT, chainServices}, f.dispatch()},
		{ChainID{NAT, chainOffNetwork}, f.offNetwork()},
		{ChainID{NAT, chainNode}, f.node()},
		{ChainID{NAT, chainPostrouting}, f.postrouting()},
		{ChainID{NAT, chainMasquerade}, []string{clearMark, masquerade}},
		{ChainID{NAT, chainHairpin}, f.hairpins},
		{ChainID{NAT, chainEgress}, f.egress()},
	}
}

const toRefuse = "-m conntrack --ctstate NEW -j " + chainRefuse

// input guards the node itself. Where 127.0.0.1 is routed for the sake of node ports, the outside
// must not reach what listens there.
func (f fixed) input() []string {
	var out []string
	if f.localhost {
		out = append(out, "! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP")
	}
	for _, pods := range f.pods {
		for _, a := range f.localServices {
			out = append(out, "-s "+pods.String()+" -d "+host(a)+" -j ACCEPT")
		}
	}
	return append(out, toRefuse)
}

// forward lets pods' traffic pass whatever the chain's policy is. What conntrack calls invalid
// would leave untranslated, and the client would reset its connection.
func (f fixed) forward() []string {
	var out []string
	for _, n := range f.services {
		out = append(out, "-d "+n.String()+" "+f.family.reject())
	}
	out = append(out, toRefuse)
	for _, n := range f.podNetworks {
		out = append(out, "-s "+n.String()+" -m conntrack --ctstate INVALID -j DROP")
	}
	for _, n := range f.podNetworks {
		out = append(out, "-s "+n.String()+" -j ACCEPT", "-d "+n.String()+" -j ACCEPT")
	}
	return out
}

func (f fixed) output() []string {
	var out []string
	for _, n := range f.services {
		out = append(out, "-d "+n.String()+" -m addrtype ! --dst-type LOCAL "+f.family.reject())
	}
	return append(out, toRefuse)
}

// direct lets pass what no service has a say in: the node's own connections to the API, and the API servers whoever asks.
func (f fixed) direct() []string {
	out := []string{isDirect + " -j RETURN"}
	for _, a := range f.servers {
		out = append(out, fmt.Sprintf("-d %s -p tcp -m tcp --dport %d -j RETURN", host(a.Addr()), a.Port()))
	}
	return out
}

// dispatch is where packets start: the addresses' tree, then what is addressed to the node.
func (f fixed) dispatch() []string {
	out := f.direct()
	for _, a := range f.localServices {
		out = append(out, "-d "+host(a)+" -j RETURN")
	}
	for _, n := range f.services {
		out = append(out, "-d "+n.String()+" -j "+chainOffNetwork)
	}
	out = append(out, f.addressRoots...)
	return append(out, "-m addrtype --dst-type LOCAL -j "+chainNode)
}

// offNetwork marks traffic to cluster IPs that comes from no pod: an endpoint elsewhere could not
// answer it through this node.
func (f fixed) offNetwork() []string {
	var out []string
	for _, n := range f.podNetworks {
		out = append(out, "-s "+n.String()+" -j RETURN")
	}
	return append(out, setMark)
}

func (f fixed) node() []string {
	var out []string
	if !f.localhost && f.family == IPv4 {
		out = append(out, "-d 127.0.0.0/8 -j RETURN")
	}
	out = append(out, f.hostPorts...)
	return append(out, f.portRoots...)
}

func (f fixed) postrouting() []string {
	out := []string{"! -o lo " + hasMark + " -j " + chainMasquerade}
	if f.localhost {
		out = append(out, "-s 127.0.0.0/8 ! -o lo -m conntrack --ctstate DNAT "+masquerade)
	}
	out = append(out, "-m conntrack --ctstate DNAT -j "+chainHairpin)
	for _, n := range f.pods {
		out = append(out, "-s "+n.String()+" -j "+chainEgress)
	}
	return out
}

// hairpins masquerade what a pod sends to itself through a service or a host port: it would not
// take an answer that bypasses the translation. Given are this node's pods that something leads to.
func hairpins(pods []netip.Addr) []leaf {
	pods = sortedUnique(pods, netip.Addr.Compare)
	out := make([]leaf, len(pods))
	for i, a := range pods {
		out[i] = leaf{addressKey(a), []string{"-s " + host(a) + " -d " + host(a) + " " + masquerade}}
	}
	return out
}

// egress masquerades what leaves the pod network, where nobody has a route to pods.
func (f fixed) egress() []string {
	var out []string
	for _, n := range f.podNetworks {
		out = append(out, "-d "+n.String()+" -j RETURN")
	}
	return append(out, "-d "+f.family.multicast()+" -j RETURN", masquerade)
}
