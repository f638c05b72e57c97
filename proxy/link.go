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
	sysctlForward6     = "/proc/sys/net/ipv6/conf/all/forwarding"
	sysctlRouteLocal   = "/proc/sys/net/ipv4/conf/all/route_localnet"
	aliasRouteLocalOld = "route_localnet="
)

// ensureLink makes the link, and of one family its addresses, its routes and the settings that forwarding needs. It
// returns a line for each that it had to make; none if all was there.
func ensureLink(in rules.Input, family rules.Family) (made []string, err error) {
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
	for _, step := range []func(netlink.Link, rules.Input, rules.Family) ([]string, error){ensureAddresses, ensureRoutes} {
		more, err := step(link, in, family)
		if made = append(made, more...); err != nil {
			return made, err
		}
	}
	more, err := ensureSettings(in, family)
	return append(made, more...), err
}

// ensureSettings makes the settings that forwarding needs, of which nobody tells that they changed. It returns a line for each
// that it had to make.
func ensureSettings(in rules.Input, family rules.Family) (made []string, err error) {
	settings := []string{sysctlForward}
	if family == rules.IPv6 {
		settings = []string{sysctlForward6}
	}
	if in.LocalhostPorts && family == rules.IPv4 {
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
func ensureAddresses(link netlink.Link, in rules.Input, family rules.Family) (made []string, err error) {
	have, err := netlink.AddrList(link, number(family))
	if err != nil {
		return nil, fmt.Errorf("cannot list the addresses of link %s: %w", LinkName, err)
	}
	for _, a := range have {
		ip, _ := netip.AddrFromSlice(a.IP)
		ip = ip.Unmap()
		if ones, _ := a.Mask.Size(); ones == ip.BitLen() && slices.Contains(in.LocalServices, ip) {
			continue
		}
		if ip.Is6() && ip.IsLinkLocalUnicast() {
			continue // every link has one
		}
		if err := netlink.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return made, fmt.Errorf("cannot delete address %s: %w", a.IPNet, err)
		}
		made = append(made, "no address "+a.IP.String())
	}
	for _, want := range in.LocalServices {
		if !family.Has(want) || slices.ContainsFunc(have, func(a netlink.Addr) bool { return a.IP.Equal(want.AsSlice()) }) {
			continue
		}
		a := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(want, want.BitLen())), Scope: unix.RT_SCOPE_HOST}
		if family == rules.IPv6 {
			a.Flags = unix.IFA_F_NODAD // nobody else is on the link to have it already
		}
		if err := netlink.AddrReplace(link, a); err != nil {
			return made, fmt.Errorf("cannot add address %s: %w", want, err)
		}
		made = append(made, "address "+want.String())
	}
	return made, nil
}

// ensureRoutes routes the service networks over the link, with the node's address as the source of
// its own packets where it is an address of this namespace.
func ensureRoutes(link netlink.Link, in rules.Input, family rules.Family) (made []string, err error) {
	have, err := netlink.RouteList(link, number(family))
	if err != nil {
		return nil, fmt.Errorf("cannot list the routes of link %s: %w", LinkName, err)
	}
	source := sourceAddress(in.Node.Addresses, family)
	for _, want := range in.ServiceNetworks {
		if !family.Has(want.Addr()) {
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

// sourceAddress is the first of the node's addresses of the family that a link here has, or nil.
func sourceAddress(node []netip.Addr, family rules.Family) net.IP {
	local, err := localAddresses(family)
	if err != nil {
		return nil // the kernel then chooses, and the rules masquerade
	}
	for _, a := range node {
		if family.Has(a) && slices.Contains(local, a) {
			return a.AsSlice()
		}
	}
	return nil
}

// localAddresses are all addresses of the family in this network namespace.
func localAddresses(family rules.Family) ([]netip.Addr, error) {
	list, err := netlink.AddrList(nil, number(family))
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

// number is the kernel's for a family.
func number(family rules.Family) int {
	if family == rules.IPv6 {
		return netlink.FAMILY_V6
	}
	return netlink.FAMILY_V4
}
