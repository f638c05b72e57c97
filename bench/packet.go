package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"

	"lockstep/proxy"
	"lockstep/proxy/load"
	"lockstep/proxy/rules"
)

const (
	gateway = "10.42.0.1"
	caller  = "10.42.0.5"
	callee  = "10.42.0.6"
	port    = 8080
	// connects is how many connections are made in a row of each kind.
	connects = 50
)

// firstPacket measures connecting from one pod to another through the last of many services, against connecting
// directly.
func firstPacket(ctx context.Context, n *node) ([]Row, error) {
	var rows []Row
	for _, services := range []int{n.size(1000, 50), n.size(10_000, 100)} {
		row, err := connect(ctx, services, n.times(10))
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func connect(ctx context.Context, services, rounds int) (row Row, err error) {
	var hosts [3]*namespace // the node and two pods
	for i := range hosts {
		if hosts[i], err = newNamespace(); err != nil {
			return row, err
		}
		defer hosts[i].close()
	}
	for i, addr := range []string{caller, callee} {
		if err := wire(ctx, hosts[0], hosts[1+i], fmt.Sprintf("pod%d", i), addr); err != nil {
			return row, err
		}
	}
	var listener net.Listener
	if _, err = hosts[2].do(ctx, timed(func(context.Context) error {
		listener, err = net.Listen("tcp", fmt.Sprintf("%s:%d", callee, port))
		return err
	})); err != nil {
		return row, err
	}
	defer listener.Close()
	go accept(listener)

	in := load.Input(services, 2)
	last := in.Slices[services-1]
	last.Endpoints = last.Endpoints[:1]
	last.Endpoints[0].Addresses = []string{callee}
	p, err := proxy.New(proxy.Options{State: func() rules.Input { return in }})
	if err != nil {
		return row, err
	}
	if _, err := hosts[0].do(ctx, timed(p.Sync)); err != nil {
		return row, err
	}
	service := netip.AddrPortFrom(load.Address(services-1), 80).String()
	var through, direct []float64
	for range rounds {
		for range connects {
			for _, to := range []struct {
				address string
				took    *[]float64
			}{{service, &through}, {fmt.Sprintf("%s:%d", callee, port), &direct}} {
				took, err := hosts[1].do(ctx, func(context.Context) (float64, error) { return dial(to.address) })
				if err != nil {
					return row, err
				}
				*to.took = append(*to.took, took)
			}
		}
	}
	return beside(fmt.Sprintf("connect through the last of %d services", services), "ms", 1000*median(through), 1000*median(direct)), nil
}

func dial(address string) (float64, error) {
	began := time.Now()
	conn, err := net.DialTimeout("tcp", address, 5*time.Second)
	took := time.Since(began).Seconds()
	if err != nil {
		return 0, err
	}
	return took, conn.Close()
}

func accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		conn.Close()
	}
}

// wire links a pod to the node as the ptp plugin does: a /32 at each end, all routes over the node.
func wire(ctx context.Context, node, pod *namespace, link, addr string) error {
	_, err := node.do(ctx, timed(func(context.Context) error {
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = link
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(pod.handle)}); err != nil {
			return err
		}
		return attach(link, gateway, addr)
	}))
	if err == nil {
		_, err = pod.do(ctx, timed(func(context.Context) error {
			if err := attach("eth0", addr, gateway); err != nil {
				return err
			}
			return netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gateway)})
		}))
	}
	if err != nil {
		return fmt.Errorf("cannot link a pod: %w", err)
	}
	return nil
}

// attach gives a link its address and the route to the other end's.
func attach(name, own, other string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(own + "/32")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	_, dst, err := net.ParseCIDR(other + "/32")
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst, Scope: netlink.SCOPE_LINK})
}
