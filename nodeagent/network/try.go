package network

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lockstep/internal/thread"
)

// Try makes a pair of links as pods have them, in a network namespace of its own that ends with it, and returns what
// kept it from that.
func Try() error { return thread.Own(try) }

func try() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("cannot make a network namespace: %w", err)
	}
	attributes := netlink.NewLinkAttrs()
	attributes.Name = "pod"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attributes, PeerName: "node"}); err != nil {
		return fmt.Errorf("cannot make a pair of links: %w", err)
	}
	return nil
}
