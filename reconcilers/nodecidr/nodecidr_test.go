package nodecidr

import (
	"net/netip"
	"testing"
)

func TestDualStack(t *testing.T) {
	parts, ok := free([]netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd00:42::/48")}, map[netip.Prefix]bool{})
	if !ok || len(parts) != 2 || parts[0].String() != "10.42.0.0/24" || parts[1].String() != "fd00:42::/64" {
		t.Errorf("parts = %v, %v", parts, ok)
	}
}
