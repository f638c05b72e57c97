package plan

import (
	"net/netip"
	"testing"
)

func TestNetworksOutside(t *testing.T) {
	both := Networks{CIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16"), netip.MustParsePrefix("fd00:43::/108")}}
	for addr, want := range map[string]string{
		"10.43.0.1": "", "10.43.255.254": "", "10.43.0.0": "10.43.0.0/16", "10.43.255.255": "10.43.0.0/16", "10.44.0.1": "10.43.0.0/16",
		"fd00:43::1": "", "fd00:43::f:ffff": "", "fd00:43::": "fd00:43::/108", "fd00:44::1": "fd00:43::/108",
	} {
		cidr, outside := both.outside(netip.MustParseAddr(addr))
		if outside != (want != "") || outside && cidr.String() != want {
			t.Errorf("%s: %v %v, want %q", addr, cidr, outside, want)
		}
		if _, outside := (Networks{}).outside(netip.MustParseAddr(addr)); outside {
			t.Errorf("%s is refused without networks", addr)
		}
	}
}
