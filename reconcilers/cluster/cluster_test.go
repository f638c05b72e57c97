package cluster

import (
	"net/netip"
	"testing"

	"lockstep/reconcilers/looptest"
)

func TestDecide(t *testing.T) {
	looptest.Golden(t, "testdata", New(Options{
		API: []netip.Addr{netip.MustParseAddr("10.43.0.1")},
		DNS: []netip.Addr{netip.MustParseAddr("10.43.0.10")},
		APIServers: func() []netip.AddrPort {
			return []netip.AddrPort{netip.MustParseAddrPort("192.0.2.2:6443"), netip.MustParseAddrPort("192.0.2.1:6443")}
		},
	}))
}
