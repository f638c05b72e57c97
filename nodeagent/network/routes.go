package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routeProtocol marks our routes in the kernel's table; the value is free in
// /etc/iproute2/rt_protos.
const routeProtocol = netlink.RouteProtocol(0x6c)

// Routes has the next hop of every other node's pod range.
type Routes map[netip.Prefix]netip.Addr

// SetRoutes makes the kernel's routes that carry our mark those in want, for
// nodes of one link: a next hop that is not on a link is an error of that
// route alone.
func SetRoutes(want Routes) error {
	have, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: routeProtocol, Table: unix.RT_TABLE_MAIN},
		netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("cannot list routes: %w", err)
	}
	present := Routes{}
	var errs []error
	for _, r := range have {
		dst, gw, ok := readRoute(r)
		if ok && want[dst] == gw {
			present[dst] = gw
			continue
		}
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("cannot remove route to %s: %w", dst, err))
		}
	}
	for dst, gw := range want {
		if present[dst] == gw {
			continue
		}
		r := &netlink.Route{Dst: ipNet(dst), Gw: net.IP(gw.AsSlice()), Protocol: routeProtocol, Table: unix.RT_TABLE_MAIN}
		if err := netlink.RouteReplace(r); err != nil {
			errs = append(errs, fmt.Errorf("cannot add route to %s by %s: %w", dst, gw, err))
		}
	}
	return errors.Join(errs...)
}

// PresentRoutes says which routes of want the kernel has, with our mark.
func PresentRoutes(want Routes) (map[netip.Prefix]bool, error) {
	out := map[netip.Prefix]bool{}
	if len(want) == 0 {
		return out, nil
	}
	have, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: routeProtocol, Table: unix.RT_TABLE_MAIN},
		netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("cannot list routes: %w", err)
	}
	for _, r := range have {
		if dst, gw, ok := readRoute(r); ok && want[dst] == gw {
			out[dst] = true
		}
	}
	return out, nil
}

func readRoute(r netlink.Route) (netip.Prefix, netip.Addr, bool) {
	gw, ok := netip.AddrFromSlice(r.Gw)
	if !ok || r.Dst == nil {
		return netip.Prefix{}, netip.Addr{}, false
	}
	addr, ok := netip.AddrFromSlice(r.Dst.IP)
	ones, _ := r.Dst.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones), gw.Unmap(), ok
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: net.IP(p.Addr().AsSlice()), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

const forwarding = "/proc/sys/net/ipv4/ip_forward"

// EnableForwarding lets the machine pass packets between its pods and its
// links; it returns the earlier value, which RestoreForwarding takes.
func EnableForwarding() (string, error) {
	old, err := os.ReadFile(forwarding)
	if err == nil && strings.TrimSpace(string(old)) != "1" {
		err = os.WriteFile(forwarding, []byte("1"), 0o644)
	}
	if err != nil {
		return "", fmt.Errorf("cannot enable packet forwarding: %w", err)
	}
	return strings.TrimSpace(string(old)), nil
}

// RestoreForwarding undoes EnableForwarding.
func RestoreForwarding(old string) error {
	if old == "" {
		return nil
	}
	if err := os.WriteFile(forwarding, []byte(old), 0o644); err != nil {
		return fmt.Errorf("cannot restore packet forwarding: %w", err)
	}
	return nil
}
