package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/goleak"

	"lockstep/internal/apart"
	"lockstep/internal/asroot"
	"lockstep/proxy/rules"
)

// TestMain runs the tests in a new network namespace: they change its rules.
func TestMain(m *testing.M) {
	if os.Getuid() == 0 { // what needs the kernel is skipped without root
		apart.Main(syscall.CLONE_NEWNET)
	}
	goleak.VerifyTestMain(m)
}

func needsKernel(t testing.TB) {
	t.Helper()
	asroot.Test(t)
}

// lan is a node (this namespace) with hosts around it, each in a namespace of its own.
type lan struct {
	t     testing.TB
	hosts []*netHost
}

// netHost is a namespace with one address, reached over one link.
type netHost struct {
	name string
	addr netip.Addr
	ns   netns.NsHandle
	t    testing.TB
}

func newLAN(t testing.TB) *lan {
	t.Helper()
	needsKernel(t)
	l := &lan{t: t}
	wipe(t)
	must(t, netlink.LinkSetUp(link(t, "lo")))
	t.Cleanup(func() {
		for _, h := range l.hosts {
			h.ns.Close()
			if link, err := netlink.LinkByName("v-" + h.name); err == nil {
				netlink.LinkDel(link)
			}
		}
		wipe(t)
	})
	return l
}

// wipe empties this namespace of rules and flows.
func wipe(t testing.TB) {
	t.Helper()
	must(t, removeLink())
	must(t, netlink.ConntrackTableFlush(netlink.ConntrackTable))
	six, _ := installed(noContext{}, rules.IPv6)
	for _, b := range append(backends(t), six...) {
		for _, table := range []string{"filter", "nat"} {
			tool := strings.TrimSuffix(b.restoring, "-restore")
			command(t, tool, "-t", table, "-F")
			command(t, tool, "-t", table, "-X")
		}
	}
}

func backends(t testing.TB) []*backend {
	t.Helper()
	found, err := installed(t.Context(), 4)
	if err != nil { // the test's context may have ended: this is also called when it cleans up
		found, err = installed(noContext{}, 4)
	}
	must(t, err)
	return found
}

// host adds a host. A pod has a /32 as the ptp plugin makes it: the node's end of each link has
// one and the same address. Others share a /30 with the node's end.
func (l *lan) host(name, addr, gateway string) *netHost {
	l.t.Helper()
	h := &netHost{name: name, addr: netip.MustParseAddr(addr), t: l.t}
	created := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		var err error
		h.ns, err = netns.New()
		created <- err
	}()
	must(l.t, <-created)
	veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "p-" + name, PeerNamespace: netlink.NsFd(h.ns)}
	veth.Name = "v-" + name
	must(l.t, netlink.LinkAdd(veth))
	near := link(l.t, veth.Name)
	must(l.t, netlink.AddrAdd(near, address(gateway+"/32")))
	must(l.t, netlink.LinkSetUp(near))
	must(l.t, netlink.RouteAdd(&netlink.Route{LinkIndex: near.Attrs().Index, Dst: address(addr + "/32").IPNet, Scope: netlink.SCOPE_LINK}))
	h.do(func() error {
		far := link(l.t, "p-"+name)
		for _, err := range []error{
			netlink.LinkSetUp(link(l.t, "lo")), netlink.LinkSetUp(far), netlink.AddrAdd(far, address(addr+"/32")),
			netlink.RouteAdd(&netlink.Route{LinkIndex: far.Attrs().Index, Dst: address(gateway + "/32").IPNet, Scope: netlink.SCOPE_LINK}),
		} {
			if err != nil {
				return err
			}
		}
		return nil
	})
	l.hosts = append(l.hosts, h)
	return h
}

// route gives the host a way to a network through the node.
func (h *netHost) route(network, gateway string) {
	h.t.Helper()
	h.do(func() error {
		far := link(h.t, "p-"+h.name)
		_, dst, err := net.ParseCIDR(network)
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{
			LinkIndex: far.Attrs().Index,
			Dst:       dst,
			Gw:        net.ParseIP(gateway),
			Flags:     int(netlink.FLAG_ONLINK),
		})
	})
}

// do runs f in the host's namespace; a nil host is the node.
func (h *netHost) do(f func() error) {
	h.t.Helper()
	must(h.t, h.try(f))
}

func (h *netHost) try(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if h.ns.IsOpen() && h.ns != 0 {
			if err := netns.Set(h.ns); err != nil {
				done <- err
				return
			}
		}
		done <- f()
	}()
	return <-done
}

// serve answers on the port of the host, by TCP and UDP, with the host's name and the client's
// address.
func (h *netHost) serve(port uint16) {
	h.t.Helper()
	at := netip.AddrPortFrom(h.addr, port)
	var streams *net.TCPListener
	var packets *net.UDPConn
	h.do(func() (err error) {
		if streams, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at)); err != nil {
			return err
		}
		packets, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		return err
	})
	var ended sync.WaitGroup
	h.t.Cleanup(func() { streams.Close(); packets.Close(); ended.Wait() })
	ended.Go(func() {
		for {
			conn, err := streams.AcceptTCP()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
			fmt.Fprint(conn, h.name+" "+host)
			conn.Close()
		}
	})
	ended.Go(func() {
		buffer := make([]byte, 64)
		for {
			_, from, err := packets.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return
			}
			packets.WriteToUDPAddrPort([]byte(h.name+" "+from.Addr().Unmap().String()), from)
		}
	})
}

// get connects from the host and returns what was answered.
func (h *netHost) get(network, to string) (string, error) {
	answer := ""
	err := h.try(func() error {
		conn, err := net.DialTimeout(network, to, 2*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		answer, err = ask(conn)
		return err
	})
	return answer, err
}

// ask takes the answer from a connection; a datagram is asked for until one comes.
func ask(conn net.Conn) (string, error) {
	if _, ok := conn.(*net.TCPConn); ok {
		conn.SetDeadline(time.Now().Add(2 * time.Second))
		b, err := io.ReadAll(conn)
		return string(b), err
	}
	buffer := make([]byte, 64)
	for try := 0; ; try++ {
		if _, err := conn.Write([]byte("?")); err != nil {
			return "", err
		}
		conn.SetReadDeadline(time.Now().Add(time.Second))
		n, err := conn.Read(buffer)
		if err == nil || try == 2 || errors.Is(err, syscall.ECONNREFUSED) {
			return string(buffer[:n]), err
		}
	}
}

func command(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func link(t testing.TB, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	return l
}

func address(text string) *netlink.Addr {
	a, err := netlink.ParseAddr(text)
	if err != nil {
		panic(err)
	}
	return a
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// dialUDP is a socket of the host that sends to one address.
func (h *netHost) dialUDP(to string) net.Conn {
	h.t.Helper()
	var conn net.Conn
	h.do(func() (err error) { conn, err = net.Dial("udp", to); return err })
	return conn
}
