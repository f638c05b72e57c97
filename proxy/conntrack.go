package proxy

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lockstep/proxy/rules"
)

// forget deletes the remembered UDP flows that no longer agree with the rules, and returns their
// number. A flow lives for as long as its client keeps sending, and its first packet alone passed
// the rules: so without this a client would talk to a dead endpoint, or to nobody, for ever.
func forget(udp rules.UDP, local []netip.Addr, family rules.Family) (int, error) {
	stale := staleFlows{udp, local}
	n, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.InetFamily(number(family)), stale)
	if err != nil {
		return int(n), fmt.Errorf("cannot delete stale UDP flows: %w", err)
	}
	return int(n), nil
}

// staleFlows matches the flows to be forgotten.
type staleFlows struct {
	udp   rules.UDP
	local []netip.Addr // the node's addresses, where node ports answer
}

// MatchConntrackFlow tells whether the flow's client addressed a service and is answered by
// something that is no endpoint of it.
func (s staleFlows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	to, ok1 := netip.AddrFromSlice(flow.Forward.DstIP)
	by, ok2 := netip.AddrFromSlice(flow.Reverse.SrcIP)
	return ok1 && ok2 && s.stale(netip.AddrPortFrom(to.Unmap(), flow.Forward.DstPort), netip.AddrPortFrom(by.Unmap(), flow.Reverse.SrcPort))
}

// stale decides for a flow that is addressed to one place and answered by another, or by the same
// where nothing was translated.
func (s staleFlows) stale(to, by netip.AddrPort) bool {
	endpoints, ok := s.udp.Addresses[to]
	if !ok {
		if !slices.Contains(s.local, to.Addr()) {
			return false
		}
		if endpoints, ok = s.udp.NodePorts[to.Port()]; !ok {
			return false
		}
	}
	return !slices.Contains(endpoints, by)
}

// withVanished adds to next what prev had and next has not, as addresses without endpoints: their
// flows end too.
func withVanished(prev, next rules.UDP) rules.UDP {
	out := rules.UDP{Addresses: map[netip.AddrPort][]netip.AddrPort{}, NodePorts: map[uint16][]netip.AddrPort{}}
	for a := range prev.Addresses {
		out.Addresses[a] = nil
	}
	for p := range prev.NodePorts {
		out.NodePorts[p] = nil
	}
	for a, list := range next.Addresses {
		out.Addresses[a] = list
	}
	for p, list := range next.NodePorts {
		out.NodePorts[p] = list
	}
	return out
}
