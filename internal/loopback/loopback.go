// Package loopback finds addresses for what tests listen at.
package loopback

import (
	"net"
	"net/netip"
	"testing"
)

// Free returns an address of the loopback with a port that nobody has, for a process that is told where to listen. The
// kernel gives it to nobody soon who lets it choose.
func Free(t testing.TB) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String())
}
