package network

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Isolated is the node's address on a machine that has none but loopback: pods cannot reach a loopback address of their
// node. RFC 6598 keeps the range off the Internet.
var Isolated = netip.MustParseAddr("100.64.0.1")

// isolatedLabel marks the address as ours, to be found again by who removes it.
const isolatedLabel = "lo:lockstep"

// EnsureIsolated puts the isolated address on the loopback link if it is among the node's and no link has it. Doing it
// again changes nothing.
func EnsureIsolated(node []netip.Addr) error {
	wanted := false
	for _, a := range node {
		wanted = wanted || a == Isolated
	}
	if !wanted {
		return nil
	}
	have, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("cannot list addresses: %w", err)
	}
	for _, a := range have {
		if a.IP.Equal(Isolated.AsSlice()) {
			return nil
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("cannot find the loopback link: %w", err)
	}
	address := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(Isolated, 32)), Label: isolatedLabel}
	if err := netlink.AddrAdd(lo, address); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("cannot add address %s: %w", Isolated, err)
	}
	return nil
}

// RemoveIsolated undoes EnsureIsolated; without the address it does nothing.
func RemoveIsolated() error {
	have, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("cannot list addresses: %w", err)
	}
	var errs []error
	for _, a := range have {
		if a.Label != isolatedLabel {
			continue
		}
		link, err := netlink.LinkByIndex(a.LinkIndex)
		if err == nil {
			err = netlink.AddrDel(link, &a)
		}
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			errs = append(errs, fmt.Errorf("cannot remove address %s: %w", a.IPNet, err))
		}
	}
	return errors.Join(errs...)
}
