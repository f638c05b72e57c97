package lab

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// partition are the names of two hosts that do not reach each other.
type partition [2]string

func (p partition) has(h *Host) bool { return p[0] == h.Name || p[1] == h.Name }

// nowhere is the address to which hosts that are parted send what is for each other: no link has it, so nobody takes it, and
// nobody says that he does not.
var nowhere = net.HardwareAddr{0x02, 0, 0, 0, 0xff, 0xff}

// Partition has two hosts not reach each other, while both reach all others: what one sends to the other, its pods' packets
// included, is lost silently. Doing it again changes nothing; healing or rebooting one of them ends it.
func (l *Lab) Partition(a, b *Host) error {
	if a.Name == b.Name {
		return fmt.Errorf("cannot part %s from itself", a.Name)
	}
	return l.change(func() error {
		if err := errors.Join(a.lose(b), b.lose(a)); err != nil {
			return err
		}
		if !slices.ContainsFunc(l.state.Partitions, func(p partition) bool { return p.has(a) && p.has(b) }) {
			l.state.Partitions = append(l.state.Partitions, partition{a.Name, b.Name})
		}
		return nil
	})
}

// join ends all partitions of a host.
func (l *Lab) join(h *Host) error {
	var errs []error
	for _, p := range l.state.Partitions {
		if !p.has(h) {
			continue
		}
		a, err := l.Host(p[0])
		errs = append(errs, err)
		b, err := l.Host(p[1])
		if errs = append(errs, err); errors.Join(errs...) == nil {
			errs = append(errs, a.find(b), b.find(a))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	l.state.Partitions = slices.DeleteFunc(l.state.Partitions, func(p partition) bool { return p.has(h) })
	return nil
}

// parted are the hosts that a host does not reach because of partitions, by name.
func (l *Lab) parted(h *Host) []string {
	var out []string
	for _, p := range l.state.Partitions {
		switch h.Name {
		case p[0]:
			out = append(out, p[1])
		case p[1]:
			out = append(out, p[0])
		}
	}
	return out
}

// lose has the host send nowhere what is for another one.
func (h *Host) lose(other *Host) error {
	return h.neighbour(other, func(n *netlink.Neigh) error {
		n.HardwareAddr, n.State = nowhere, netlink.NUD_PERMANENT
		return netlink.NeighSet(n)
	})
}

// find has the host ask for another one's link again. Where it was not lost that changes nothing.
func (h *Host) find(other *Host) error {
	return h.neighbour(other, func(n *netlink.Neigh) error {
		if err := netlink.NeighDel(n); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		return nil
	})
}

func (h *Host) neighbour(other *Host, change func(*netlink.Neigh) error) error {
	return h.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return fmt.Errorf("cannot find the link of host %s: %w", h.Name, err)
		}
		if err := change(&netlink.Neigh{LinkIndex: link.Attrs().Index, IP: net.ParseIP(other.Addr)}); err != nil {
			return fmt.Errorf("cannot change the way from %s to %s: %w", h.Name, other.Name, err)
		}
		return nil
	})
}
