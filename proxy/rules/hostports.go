package rules

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// hostPorts is the part of the pods' ports that answer at the node's addresses.
type hostPorts struct{}

// fill implements part.
func (h hostPorts) fill(b *board, s setting, in Input) {
	for _, p := range h.valid(s.family, in.HostPorts) {
		b.add(nodeHostPorts, hostPortRule(p))
		b.reached = append(b.reached, p.PodIP)
		if protocolOf(p.Protocol) != corev1.ProtocolUDP {
			continue
		}
		u := udpEntry{endpoints: []netip.AddrPort{netip.AddrPortFrom(p.PodIP, p.Port)}}
		if specific(p.HostIP) {
			u.address = netip.AddrPortFrom(p.HostIP, p.HostPort)
		} else {
			u.nodePort = p.HostPort
		}
		b.answered(u)
	}
}

// valid are the host ports of the family, in the order of their rules: those of one address before those of every address.
func (hostPorts) valid(family Family, all []HostPort) []HostPort {
	var out []HostPort
	for _, p := range all {
		if family.Has(p.PodIP) && p.Port != 0 && p.HostPort != 0 && (!specific(p.HostIP) || family.Has(p.HostIP)) {
			out = append(out, p)
		}
	}
	return sortedUnique(out, func(a, b HostPort) int {
		return cmp.Or(-compareBools(specific(a.HostIP), specific(b.HostIP)), a.HostIP.Compare(b.HostIP),
			cmp.Compare(a.HostPort, b.HostPort),
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
