package rules

import "fmt"

// ground is the part that no service has a say in: what guards the node, what passes untouched, and how pods reach the outside.
type ground struct{}

// fill implements part.
func (ground) fill(b *board, s setting, _ Input) {
	b.add(inputGuard, guard(s)...)
	b.add(inputAccept, asked(s)...)
	b.add(forwardAccept, forwarded(s)...)
	b.add(refuseExempt, direct(s)...)
	b.add(dispatchExempt, direct(s)...)
	for _, a := range s.localServices {
		b.add(dispatchExempt, "-d "+host(a)+" -j RETURN")
	}
	b.add(dispatchNode, "-m addrtype --dst-type LOCAL -j "+chainNode)
	if !s.localhost && s.family == IPv4 {
		b.add(nodeExempt, "-d 127.0.0.0/8 -j RETURN")
	}
	b.add(leaveMarked, "! -o lo "+hasMark+" -j "+chainMasquerade)
	if s.localhost {
		b.add(leaveMarked, "-s 127.0.0.0/8 ! -o lo -m conntrack --ctstate DNAT "+masquerade)
	}
	for _, n := range s.pods {
		b.add(leaveEgress, "-s "+n.String()+" -j "+chainEgress)
	}
	b.own(&Chain{ChainID{NAT, chainMasquerade}, []string{clearMark, masquerade}}, &Chain{ChainID{NAT, chainEgress}, egress(s)})
}

// guard keeps the outside, where 127.0.0.1 is routed for the sake of node ports, from what listens there.
func guard(s setting) []string {
	if !s.localhost {
		return nil
	}
	return []string{"! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"}
}

// asked lets this node's pods reach what the node answers itself.
func asked(s setting) (out []string) {
	for _, pods := range s.pods {
		for _, a := range s.localServices {
			out = append(out, "-s "+pods.String()+" -d "+host(a)+" -j ACCEPT")
		}
	}
	return out
}

// forwarded lets pods' traffic pass whatever the chain's policy is. What conntrack calls invalid
// would leave untranslated, and the client would reset its connection.
func forwarded(s setting) (out []string) {
	for _, n := range s.podNetworks {
		out = append(out, "-s "+n.String()+" -m conntrack --ctstate INVALID -j DROP")
	}
	for _, n := range s.podNetworks {
		out = append(out, "-s "+n.String()+" -j ACCEPT", "-d "+n.String()+" -j ACCEPT")
	}
	return out
}

// direct lets pass what no service has a say in: the node's own connections to the API, and the API servers whoever asks.
func direct(s setting) []string {
	out := []string{isDirect + " -j RETURN"}
	for _, a := range s.servers {
		out = append(out, fmt.Sprintf("-d %s -p tcp -m tcp --dport %d -j RETURN", host(a.Addr()), a.Port()))
	}
	return out
}

// egress masquerades what leaves the pod network, where nobody has a route to pods.
func egress(s setting) (out []string) {
	for _, n := range s.podNetworks {
		out = append(out, "-d "+n.String()+" -j RETURN")
	}
	return append(out, "-d "+s.family.multicast()+" -j RETURN", masquerade)
}
