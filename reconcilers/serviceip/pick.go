package serviceip

import (
	"fmt"
	"hash/fnv"
	"math/big"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

func familyOf(addr netip.Addr) corev1.IPFamily {
	if addr.Is6() {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// giveFamilies sets ipFamilyPolicy and ipFamilies where they are not stated; a problem where the cluster has not what
// is.
func (a *allocation) giveFamilies(s *corev1.Service) (problem string) {
	var have []corev1.IPFamily
	for _, p := range a.CIDRs {
		if f := familyOf(p.Addr()); !slices.Contains(have, f) {
			have = append(have, f)
		}
	}
	if s.Spec.IPFamilyPolicy == nil {
		policy := corev1.IPFamilyPolicySingleStack
		if len(s.Spec.IPFamilies) > 1 || len(s.Spec.ClusterIPs) > 1 {
			policy = corev1.IPFamilyPolicyRequireDualStack
		}
		s.Spec.IPFamilyPolicy = &policy
	}
	families := slices.Clone(s.Spec.IPFamilies)
	for i, text := range s.Spec.ClusterIPs {
		if addr, err := netip.ParseAddr(text); err == nil && i >= len(families) {
			families = append(families, familyOf(addr))
		}
	}
	for _, f := range families {
		if !slices.Contains(have, f) {
			return fmt.Sprintf("the cluster has no service network of family %s", f)
		}
	}
	want := 1
	if policy := *s.Spec.IPFamilyPolicy; policy == corev1.IPFamilyPolicyRequireDualStack || policy == corev1.IPFamilyPolicyPreferDualStack {
		want = 2
	}
	for _, f := range have {
		if len(families) < want && !slices.Contains(families, f) {
			families = append(families, f)
		}
	}
	if len(families) < want && *s.Spec.IPFamilyPolicy == corev1.IPFamilyPolicyRequireDualStack {
		return "the cluster has service networks of one family only"
	}
	s.Spec.IPFamilies = families
	return ""
}

// giveAddresses allocates an address of each family that the service has none of.
func (a *allocation) giveAddresses(s *corev1.Service) (problems []string) {
	name := s.Namespace + "/" + s.Name
	addrs := slices.Clone(s.Spec.ClusterIPs)
	if len(addrs) == 0 && s.Spec.ClusterIP != "" {
		addrs = []string{s.Spec.ClusterIP}
	}
	for _, family := range s.Spec.IPFamilies[min(len(addrs), len(s.Spec.IPFamilies)):] {
		i := slices.IndexFunc(a.CIDRs, func(p netip.Prefix) bool { return familyOf(p.Addr()) == family })
		addr, ok := a.freeAddr(a.CIDRs[i].Masked(), string(s.UID))
		if !ok {
			return append(problems, fmt.Sprintf("no address of %s is free", a.CIDRs[i]))
		}
		addrs = append(addrs, addr.String())
		a.addrs[addr] = name
	}
	s.Spec.ClusterIPs = addrs
	if len(addrs) > 0 {
		s.Spec.ClusterIP = addrs[0]
	}
	return nil
}

// freeAddr returns a free address: outside the network's static band while one is left there. The search starts at a
// place that depends on the seed, so that an address is seldom given again right after it was released.
func (a *allocation) freeAddr(network netip.Prefix, seed string) (netip.Addr, bool) {
	size := hosts(network)
	band := staticBand(size, 16, 256, 16)
	free := func(from, n int) (netip.Addr, bool) {
		for k := range n {
			addr := nth(network.Addr(), from+(start(seed, n)+k)%n)
			if _, taken := a.addrs[addr]; !taken {
				return addr, true
			}
		}
		return netip.Addr{}, false
	}
	if addr, ok := free(1+band, size-band); ok {
		return addr, true
	}
	return free(1, band)
}

// freePort returns a free node port: outside the static band while one is left there.
func (a *allocation) freePort(seed string) (int32, bool) {
	size := a.NodePorts[1] - a.NodePorts[0] + 1
	band := staticBand(size, 16, 128, 32)
	free := func(from, n int) (int32, bool) {
		for k := range n {
			port := int32(from + (start(seed, n)+k)%n)
			if _, taken := a.ports[port]; !taken {
				return port, true
			}
		}
		return 0, false
	}
	if port, ok := free(a.NodePorts[0]+band, size-band); ok {
		return port, true
	}
	return free(a.NodePorts[0], band)
}

// staticBand is how many values at the lower end are left to those who state theirs: Kubernetes' formula, one in step,
// within bounds, none in a range that is not larger than the lower bound.
func staticBand(size, least, most, step int) int {
	if size <= least {
		return 0
	}
	return min(max(least, size/step), most)
}

// hosts counts a network's addresses without the first, and for IPv4 the last; at most 2^20, more is of no use.
func hosts(network netip.Prefix) int {
	bits := min(network.Addr().BitLen()-network.Bits(), 20)
	n := 1<<bits - 1
	if network.Addr().Is4() {
		n--
	}
	return max(n, 0)
}

// nth returns the address n after first.
func nth(first netip.Addr, n int) netip.Addr {
	sum := new(big.Int).SetBytes(first.AsSlice())
	sum.Add(sum, big.NewInt(int64(n)))
	addr, _ := netip.AddrFromSlice(sum.FillBytes(make([]byte, first.BitLen()/8)))
	return addr
}

func start(seed string, n int) int {
	h := fnv.New32a()
	h.Write([]byte(seed))
	return int(h.Sum32()) % max(n, 1)
}
