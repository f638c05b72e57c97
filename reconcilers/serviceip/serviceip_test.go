package serviceip

import (
	"net/netip"
	"testing"

	"lockstep/reconcilers/looptest"
)

func options(cidrs ...string) Options {
	o := Options{
		NodePorts: [2]int{30000, 32767},
		Reserved:  map[netip.Addr]string{netip.MustParseAddr("10.43.0.10"): "kube-system/kube-dns"},
	}
	for _, text := range cidrs {
		o.CIDRs = append(o.CIDRs, netip.MustParsePrefix(text))
	}
	return o
}

func TestDecide(t *testing.T) { looptest.Golden(t, "testdata", New(options("10.43.0.0/16"))) }

func TestDecideDualStack(t *testing.T) {
	looptest.Golden(t, "testdata/dual", New(options("10.43.0.0/16", "fd00:43::/108")))
}

// TestPickTakesTheStaticBandLast fills a small network to the last address.
func TestPickTakesTheStaticBandLast(t *testing.T) {
	a := newAllocation(options("10.0.0.0/27"))
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
