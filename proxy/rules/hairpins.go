package rules

import (
	"net/netip"
	"slices"
)

// hairpins is the part of this node's pods that reach themselves. It comes last, when all parts have said whom they lead to.
type hairpins struct{}

// fill implements part.
func (hairpins) fill(b *board, s setting, in Input) {
	// A process in the node's own network reaches itself over the loopback link, untranslated.
	pods := slices.DeleteFunc(b.reached, func(a netip.Addr) bool { return slices.Contains(in.Node.Addresses, a) })
	root, chains := grow(themselves(pods), sources())
	b.add(leaveHairpin, "-m conntrack --ctstate DNAT -j "+chainHairpin)
	b.own(&Chain{ChainID{NAT, chainHairpin}, root})
	b.own(chains...)
}

// themselves masquerade what a pod sends to itself through a service or a host port: it would not
// take an answer that bypasses the translation. Given are this node's pods that something leads to.
func themselves(pods []netip.Addr) []leaf {
	pods = sortedUnique(pods, netip.Addr.Compare)
	out := make([]leaf, len(pods))
	for i, a := range pods {
		out[i] = leaf{addressKey(a), []string{"-s " + host(a) + " -d " + host(a) + " " + masquerade}}
	}
	return out
}
