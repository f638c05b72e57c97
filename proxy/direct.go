package proxy

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"lockstep/proxy/rules"
)

// Direct marks a dialer's connections as the node's own, which no service's rules apply to; it replaces the dialer's
// Control. Without the right to mark (CAP_NET_ADMIN) they are like any other.
func Direct(d *net.Dialer) *net.Dialer {
	d.Control = func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, rules.DirectMark)
		})
	}
	return d
}
