package proxy

import (
	"golang.org/x/sys/unix"
)

// moves follows whether links, addresses and routes of this network namespace change, whoever changes them: what belongs
// to the service link is read again only then.
type moves struct {
	fd   int // rtnetlink's multicast; below 0: it is not followed
	seen int // how often something was seen to move
}

// moveGroups are rtnetlink's groups of what ensureLink looks at.
const moveGroups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV6_ROUTE

// moveMost bounds how many messages one count reads, so that a flood of them does not hold it; the rest count the next time.
const moveMost = 1000

// follow begins to listen. Where the kernel does not let it, everything counts as moved, always.
func (m *moves) follow() {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: moveGroups}); err != nil {
		unix.Close(fd)
		return
	}
	m.fd = fd
}

// leave ends listening.
func (m *moves) leave() {
	if m.fd >= 0 {
		unix.Close(m.fd)
		m.fd = -1
	}
}

// count is a number that differs from the last one if something may have moved since. It does not wait. Messages that the
// kernel dropped, since more came than a socket holds, are told by an error and count, too.
func (m *moves) count() int {
	if m.fd < 0 {
		m.seen++
		return m.seen
	}
	moved := false
	buffer := make([]byte, 512) // the rest of a longer message is dropped: that it came is enough
	for range moveMost {
		_, _, err := unix.Recvfrom(m.fd, buffer, 0)
		if err == unix.EAGAIN {
			break
		}
		moved = true
	}
	if moved {
		m.seen++
	}
	return m.seen
}
