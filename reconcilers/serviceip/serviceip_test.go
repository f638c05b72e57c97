package serviceip

import (
	"net/netip"
	"testing"
)

// TestPickTakesTheStaticBandLast fills a small network to the last address.
func TestPickTakesTheStaticBandLast(t *testing.T) {
	a := newAllocation(Options{CIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/27")}, NodePorts: [2]int{30000, 32767}})
	network := a.CIDRs[0]
	for n := range 30 {
		addr, ok := a.freeAddr(network, "seed")
		if !ok || !network.Contains(addr) || a.addrs[addr] != "" {
			t.Fatalf("address %d: %v, %v", n, addr, ok)
		}
		static := addr.Compare(netip.MustParseAddr("10.0.0.16")) <= 0
		if static != (n >= 14) {
			t.Errorf("address %d is %v", n, addr)
		}
		a.addrs[addr] = "somebody"
	}
	if addr, ok := a.freeAddr(network, "seed"); ok {
		t.Errorf("a full network gave %v", addr)
	}
}
