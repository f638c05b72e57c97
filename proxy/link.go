package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lockstep/proxy/rules"
)

// LinkName is the link that the service networks are routed over: an empty bridge, so that a
// packet for a service finds a route on a machine that has no other, and one for an address
// without rules never leaves the machine.
const LinkName = "lockstep0"

const (
	sysctlForward      = "/proc/sys/net/ipv4/ip_forward"
	sysctlRouteLocal   = "/proc/sys/net/ipv4/conf/all/route_localnet"
	aliasRouteLocalOld = "route_localnet="
)

// ensureLink makes the link, its addresses, its routes and the settings that forwarding needs, and
// returns a line for each that it had to make; none if all was there.
func ensureLink(in rules.Input) (made []string, err error) {
	link, err := netlink.LinkByName(LinkName)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		if err := addLink(); err != nil {
			return nil, err
		}
		made = append(made, "link")
		link, err = netlink.LinkByName(LinkName)
	}
	if err != nil {
		return made, fmt.Errorf("cannot find link %s: %w", LinkName, err)
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(link); err != nil {
			return made, fmt.Errorf("cannot set link %s up: %w", LinkName, err)
		}
		made = append(made, "link up")
	}
	for _, step := range []func(netlink.Link, rules.Input) ([]string, error){ensureAddresses, ensureRoutes} {
		more, err := step(link, in)
		if made = append(made, more...); err != nil {
			return made, err
		}
	}
	settings := []string{sysctlForward}
	if in.LocalhostPorts {
		settings = append(settings, sysctlRouteLocal)
	}
	for _, path := range settings {
		changed, err := ensureSetting(path, "1")
		if err != nil {
			return made, err
		}
		if changed {
			made = append(made, strings.ReplaceAll(strings.TrimPrefix(path, "/proc/sys/"), "/", ".")+" = 1")
		}
	}
	return made, nil
}

// addLink creates the link, which also remembers what its removal must restore.
func addLink() error {
	old, err := os.ReadFile(sysctlRouteLocal)
	if err != nil {
		return fmt.Errorf("cannot read setting: %w", err)
	}
	attributes := netlink.NewLinkAttrs()
	attributes.Name = LinkName
	link := &netlink.Bridge{LinkAttrs: attributes}
	if err := netlink.LinkAdd(link); err != nil {
		return fmt.Errorf("cannot add link %s: %w", LinkName, err)
	}
	if err := netlink.LinkSetAlias(link, aliasRouteLocalOld+strings.TrimSpace(string(old))); err != nil {
		return fmt.Errorf("cannot set the alias of link %s: %w", LinkName, err)
	}
	return nil
}

// ensureAddresses gives the link the service addresses that the node answers itself. Their scope
// keeps them from being chosen as anybody's source address.
func ensureAddresses(link netlink.Link, in rules.Input) (made []string, err error) {
	have, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("cannot list the addresses of link %s: %w", LinkName, err)
	}
	for _, a := range have {
		ip, _ := netip.AddrFromSlice(a.IP)
		if ones, _ := a.Mask.Size(); ones == 32 && slices.Contains(in.LocalServices, ip.Unmap()) {
			continue
		}
		if err := netlink.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return made, fmt.Errorf("cannot delete address %s: %w", a.IPNet, err)
		}
		made = append(made, "no address "+a.IP.String())
	}
	for _, want := range in.LocalServices {
		if !want.Is4() || slices.ContainsFunc(have, func(a netlink.Addr) bool { return a.IP.Equal(want.AsSlice()) }) {
			continue
		}
		a := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(want, 32)), Scope: unix.RT_SCOPE_HOST}
		if err := netlink.AddrReplace(link, a); err != nil {
			return made, fmt.Errorf("cannot add address %s: %w", want, err)
		}
		made = append(made, "address "+want.String())
	}
	return made, nil
}

// ensureRoutes routes the service networks over the link, with the node's address as the source of
// its own packets where it is an address of this namespace.
func ensureRoutes(link netlink.Link, in rules.Input) (made []string, err error) {
	have, err := netlink.RouteList(link, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("cannot list the routes of link %s: %w", LinkName, err)
	}
	source := sourceAddress(in.Node.Addresses)
	for _, want := range in.ServiceNetworks {
		if !want.Addr().Is4() {
			continue
		}
		route := netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(want.Masked()), Src: source, Scope: netlink.SCOPE_LINK}
		if slices.ContainsFunc(have, func(r netlink.Route) bool {
			return r.Dst != nil && r.Dst.String() == route.Dst.String() && r.Src.Equal(route.Src)
		}) {
			continue
		}
		if err := netlink.RouteReplace(&route); err != nil {
			return made, fmt.Errorf("cannot add route to %s: %w", want, err)
		}
		made = append(made, "route to "+want.String())
	}
	return made, nil
}

// sourceAddress is the first of the node's IPv4 addresses that a link here has, or nil.
func sourceAddress(node []netip.Addr) net.IP {
	local, err := localAddresses()
	if err != nil {
		return nil // the kernel then chooses, and the rules masquerade
	}
	for _, a := range node {
		if a.Is4() && slices.Contains(local, a) {
			return a.AsSlice()
		}
	}
	return nil
}

// localAddresses are all IPv4 addresses of this network namespace.
func localAddresses() ([]netip.Addr, error) {
	list, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("cannot list addresses: %w", err)
	}
	var out []netip.Addr
	for _, a := range list {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			out = append(out, ip.Unmap())
		}
	}
	return out, nil
}

// ensureSetting writes a kernel setting unless it has the value.
func ensureSetting(path, value string) (changed bool, err error) {
	have, err := os.ReadFile(path)
	if err != nil {
		return false, fmt.Errorf("cannot read setting: %w", err)
	}
	if strings.TrimSpace(string(have)) == value {
		return false, nil
	}
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		return false, fmt.Errorf("cannot write setting: %w", err)
	}
	return true, nil
}

// removeLink deletes the link with its addresses and routes, and gives back the setting that it
// changed for the node's safety. Forwarding stays on: others may have come to need it.
func removeLink() error {
	link, err := netlink.LinkByName(LinkName)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot find link %s: %w", LinkName, err)
	}
	if old, ok := strings.CutPrefix(link.Attrs().Alias, aliasRouteLocalOld); ok {
		if _, err := ensureSetting(sysctlRouteLocal, old); err != nil {
			return err
		}
	}
	if err := netlink.LinkDel(link); err != nil {
		return fmt.Errorf("cannot delete link %s: %w", LinkName, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
