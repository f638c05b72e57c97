package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

const (
	switchName = "switch"
	bridgeName = "br0"
)

// startSwitch makes the namespace with the bridge at which all hosts meet.
func (l *Lab) startSwitch(ctx context.Context) error {
	holder, err := l.startHolder(ctx, switchName)
	l.state.Switch = holder
	if saved := l.save(); err == nil {
		err = saved
	}
	if err != nil {
		return err
	}
	return l.atSwitch(func(h *netlink.Handle) error {
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName}}
		if err := h.LinkAdd(bridge); err != nil {
			return fmt.Errorf("cannot make the lab's bridge: %w", err)
		}
		return h.LinkSetUp(bridge)
	})
}

// plug links a host to the bridge. It has an address and no default route.
func (l *Lab) plug(host *Host) error {
	err := l.atSwitch(func(h *netlink.Handle) error {
		bridge, err := h.LinkByName(bridgeName)
		if err != nil {
			return err
		}
		port := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: portName(host), MasterIndex: bridge.Attrs().Index},
			PeerName:  "eth0", PeerNamespace: netlink.NsPid(host.Holder.PID),
		}
		if old, err := h.LinkByName(port.Name); err == nil {
			_ = h.LinkDel(old)
		}
		if err := h.LinkAdd(port); err != nil {
			return err
		}
		return h.LinkSetUp(port)
	})
	if err != nil {
		return fmt.Errorf("cannot link host %s to the lab's bridge: %w", host.Name, err)
	}
	return host.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return fmt.Errorf("cannot find the link of host %s: %w", host.Name, err)
		}
		addr, err := netlink.ParseAddr(fmt.Sprintf("%s/%d", host.Addr, network.Bits()))
		if err != nil {
			return fmt.Errorf("cannot parse the address of host %s: %w", host.Name, err)
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("cannot give host %s its address: %w", host.Name, err)
		}
		return netlink.LinkSetUp(link)
	})
}

// onlookerAddr is the onlooker's address on the lab's network.
const onlookerAddr = "10.99.0.3"

// Onlooker is a host that stands where all links meet, so that no fault takes it off the network. It runs nothing, and is not among
// Hosts.
func (l *Lab) Onlooker() (*Host, error) {
	err := l.atSwitch(func(h *netlink.Handle) error {
		bridge, err := h.LinkByName(bridgeName)
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(fmt.Sprintf("%s/%d", onlookerAddr, network.Bits()))
		if err != nil {
			return err
		}
		return h.AddrReplace(bridge, addr)
	})
	if err != nil {
		return nil, fmt.Errorf("cannot look on at the lab: %w", err)
	}
	return &Host{Name: switchName, Addr: onlookerAddr, Holder: l.state.Switch, Lab: l.dir}, nil
}

// Cut takes the host off the network: its link loses its carrier. Cutting it again changes nothing, nor does healing a
// host that was not cut.
func (l *Lab) Cut(host *Host) error { return l.setPort(host, false) }

// Heal ends all that the host's link, disk and clock suffer: it is on the network, reaches all hosts, at full speed, and has room.
func (l *Lab) Heal(host *Host) error {
	if host.Skew != 0 {
		if err := l.Skew(host, 0); err != nil {
			return err
		}
	}
	return l.change(func() error { return l.heal(host) })
}

func (l *Lab) heal(h *Host) error {
	return errors.Join(l.setPort(h, true), l.join(h), l.quicken(h), emptyDisk(h))
}

// IsCut says whether the host is off the network.
func (l *Lab) IsCut(host *Host) (cut bool, err error) {
	err = l.atSwitch(func(h *netlink.Handle) error {
		port, err := h.LinkByName(portName(host))
		if err != nil {
			return fmt.Errorf("cannot find the port of host %s: %w", host.Name, err)
		}
		cut = port.Attrs().Flags&net.FlagUp == 0
		return nil
	})
	return cut, err
}

func (l *Lab) setPort(host *Host, up bool) error {
	return l.atSwitch(func(h *netlink.Handle) error {
		port, err := h.LinkByName(portName(host))
		if err != nil {
			return fmt.Errorf("cannot find the port of host %s: %w", host.Name, err)
		}
		if up {
			return h.LinkSetUp(port)
		}
		return h.LinkSetDown(port)
	})
}

// portName is unique per host and within the kernel's 15 characters: the host's number on the network.
func portName(h *Host) string { return "port" + h.Addr[len("10.99.0."):] }

func (l *Lab) atSwitch(f func(*netlink.Handle) error) error {
	ns, err := netns.GetFromPid(l.state.Switch.PID)
	if err != nil {
		return fmt.Errorf("cannot enter the lab's switch: %w", err)
	}
	defer func() { _ = ns.Close() }()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return fmt.Errorf("cannot enter the lab's switch: %w", err)
	}
	defer h.Close()
	return f(h)
}

// Suffers lists what is wrong with the host's link, disk and clock; "none" where nothing is.
func (l *Lab) Suffers(h *Host) string {
	var out []string
	if cut, err := l.IsCut(h); err != nil {
		out = append(out, "no link")
	} else if cut {
		out = append(out, "cut")
	}
	if slow, err := l.IsSlow(h); err == nil && slow {
		out = append(out, "slow")
	}
	if from := l.parted(h); len(from) > 0 {
		out = append(out, "parted from "+strings.Join(from, ", "))
	}
	if isFull(h) {
		out = append(out, "disk full")
	}
	if h.Skew != 0 {
		out = append(out, fmt.Sprintf("clock off by %s", h.Skew))
	}
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, "; ")
}
