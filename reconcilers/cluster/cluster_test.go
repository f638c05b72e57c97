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
	}))
}
