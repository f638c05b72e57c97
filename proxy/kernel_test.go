package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/internal/eventually"
	"lockstep/proxy/rules"
)

// noContext is a context that never ends.
type noContext struct{ context.Context }

func (noContext) Done() <-chan struct{}       { return nil }
func (noContext) Err() error                  { return nil }
func (noContext) Deadline() (time.Time, bool) { return time.Time{}, false }
func (noContext) Value(any) any               { return nil }

// world is the input that a test changes, and the proxy that follows it.
type world struct {
	t     testing.TB
	proxy *Proxy
	wake  chan struct{}
	mu    sync.Mutex
	in    rules.Input
	drift chan Drift
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func newWorld(t testing.TB, b *backend) *world {
	t.Helper()
	w := &world{t: t, wake: make(chan struct{}, 1), drift: make(chan Drift, 100)}
	w.in = rules.Input{
		Node: rules.Node{
			Name:      "here",
			Addresses: []netip.Addr{netip.MustParseAddr("192.168.60.1")},
			PodCIDRs:  []netip.Prefix{prefix("10.42.0.0/24")},
		},
		PodNetworks:     []netip.Prefix{prefix("10.42.0.0/16")},
		ServiceNetworks: []netip.Prefix{prefix("10.43.0.0/16")},
		LocalServices:   []netip.Addr{netip.MustParseAddr("10.43.0.10")},
		LocalhostPorts:  true,
	}
	p, err := New(Options{
		State: func() rules.Input { w.mu.Lock(); defer w.mu.Unlock(); return w.in },
		Wake:  w.wake,
		Drift: func(d Drift) { w.drift <- d },
		Log:   slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	must(t, err)
	p.keepers[0].tables = b
	p.watchEvery, p.keepers[0].legacyReadEvery = 100*time.Millisecond, 100*time.Millisecond
	w.proxy = p
	return w
}

// run starts the proxy and waits until its rules are in the kernel.
func (w *world) run() {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error)
	go func() { done <- w.proxy.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	eventually.True(w.t, 10*time.Second, "rules are written", func() bool { return w.proxy.Health() == nil })
}

// set replaces a service and its endpoints ("10.42.0.5" of this node, "10.42.1.5" of another) and
// wakes the proxy.
func (w *world) set(svc *corev1.Service, port int32, addresses ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.in.Services, w.in.Slices = without(w.in.Services, svc.Name), without(w.in.Slices, svc.Name)
	w.in.Services = append(w.in.Services, svc)
	if len(addresses) > 0 {
		w.in.Slices = append(w.in.Slices, slice(svc, port, addresses...))
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func without[T interface{ GetName() string }](list []T, name string) []T {
	var out []T
	for _, o := range list {
		if o.GetName() != name {
			out = append(out, o)
		}
	}
	return out
}

func service(name, ip string, protocol corev1.Protocol, change ...func(*corev1.ServiceSpec)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
		Spec:       corev1.ServiceSpec{ClusterIP: ip, Ports: []corev1.ServicePort{{Name: "main", Port: 80, Protocol: protocol}}},
	}
	for _, f := range change {
		f(&s.Spec)
	}
	return s
}

func slice(svc *corev1.Service, port int32, addresses ...string) *discoveryv1.EndpointSlice {
	p := svc.Spec.Ports[0]
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: svc.Namespace,
			Name:      svc.Name,
			Labels:    map[string]string{discoveryv1.LabelServiceName: svc.Name},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &p.Name, Protocol: &p.Protocol, Port: &port}},
	}
	for _, a := range addresses {
		node := "there"
		if strings.HasPrefix(a, "10.42.0.") {
			node = "here"
		}
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}, NodeName: &node})
	}
	return s
}

func nodePort(port int32) func(*corev1.ServiceSpec) {
	return func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeNodePort; s.Ports[0].NodePort = port }
}

func eachBackend(t *testing.T, f func(t *testing.T, b *backend)) {
	needsKernel(t)
	for _, b := range backends(t) {
		t.Run(b.name, func(t *testing.T) { f(t, b) })
	}
}

func TestTraffic(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		l := newLAN(t)
		node := &netHost{name: "node", t: t}
		a, c := l.host("a", "10.42.0.5", "10.42.0.1"), l.host("c", "10.42.0.6", "10.42.0.1")
		a.route("0.0.0.0/0", "10.42.0.1")
		c.route("0.0.0.0/0", "10.42.0.1")
		// A pod of another node, which knows the way to this node and its pods but not to clients.
		far := l.host("far", "10.42.1.5", "192.168.50.1")
		far.route("10.42.0.0/24", "192.168.50.1")
		far.route("192.168.60.1/32", "192.168.50.1")
		client := l.host("client", "192.168.60.2", "192.168.60.1")
		client.route("10.43.0.0/16", "192.168.60.1")
		client.route("192.168.70.7/32", "192.168.60.1")
		for _, h := range []*netHost{a, c, far, client} {
			h.serve(8080)
		}

		w := newWorld(t, b)
		w.in.HostPorts = []rules.HostPort{
			{Pod: "shop/a", PodIP: a.addr, Port: 8080, HostPort: 9090, Protocol: corev1.ProtocolTCP},
			{Pod: "shop/a", PodIP: a.addr, Port: 8080, HostPort: 9091, Protocol: corev1.ProtocolUDP,
				HostIP: netip.MustParseAddr("192.168.60.1")},
		}
		w.set(service("both", "10.43.0.20", "TCP", nodePort(30020), func(s *corev1.ServiceSpec) {
			s.ExternalIPs = []string{"192.168.70.7"}
		}), 8080, "10.42.0.5", "10.42.1.5")
		w.set(service("self", "10.43.0.21", "TCP"), 8080, "10.42.0.5")
		w.set(service("remote", "10.43.0.22", "TCP", nodePort(30022)), 8080, "10.42.1.5")
		w.set(service("nobody", "10.43.0.23", "TCP", nodePort(30023), func(s *corev1.ServiceSpec) {
			s.ExternalIPs = []string{"192.168.60.1"}
			s.Ports[0].Port = 81
		}), 8080)
		w.set(service("sticky", "10.43.0.24", "TCP", func(s *corev1.ServiceSpec) { s.SessionAffinity = corev1.ServiceAffinityClientIP }),
			8080, "10.42.0.5", "10.42.0.6", "10.42.1.5")
		w.set(service("datagrams", "10.43.0.25", "UDP", nodePort(30025)), 8080, "10.42.0.6")
		w.set(service("keep", "10.43.0.26", "TCP", nodePort(30026), func(s *corev1.ServiceSpec) { s.ExternalTrafficPolicy = "Local" }),
			8080, "10.42.0.6", "10.42.1.5")
		w.run()
		// What listens at the DNS address, such as a DNS server, is reached without any rule.
		(&netHost{name: "dns", addr: netip.MustParseAddr("10.43.0.10"), t: t}).serve(53)

		const refused = "refused"
		tests := []struct {
			what    string
			from    *netHost
			network string
			to      string
			want    string // names joined by "|" and the source that they see; or refused
		}{
			{"cluster address from a pod", c, "tcp", "10.43.0.20:80", "a|far 10.42.0.6"},
			{"cluster address from the node", node, "tcp", "10.43.0.20:80", "a|far"},
			{"cluster address from outside", client, "tcp", "10.43.0.22:80", "far 192.168.50.1"},
			{"a pod reaches itself through its service", a, "tcp", "10.43.0.21:80", "a 10.42.0.1"},
			{"node port from outside to another node's pod", client, "tcp", "192.168.60.1:30022", "far 192.168.50.1"},
			{"node port from outside", client, "tcp", "192.168.60.1:30020", "a|far"},
			{"node port from the node", node, "tcp", "192.168.60.1:30020", "a|far"},
			{"node port at localhost", node, "tcp", "127.0.0.1:30020", "a|far"},
			{"node port from a pod", c, "tcp", "10.42.0.1:30020", "a|far"},
			{"external address", client, "tcp", "192.168.70.7:80", "a|far"},
			{"no endpoints: cluster address from a pod", c, "tcp", "10.43.0.23:81", refused},
			{"no endpoints: cluster address from the node", node, "tcp", "10.43.0.23:81", refused},
			{"no endpoints: node port", client, "tcp", "192.168.60.1:30023", refused},
			{"no endpoints: external address", client, "tcp", "192.168.60.1:81", refused},
			{"no such service, from a pod", c, "tcp", "10.43.77.7:80", refused},
			{"no such service, from the node", node, "tcp", "10.43.77.7:80", refused},
			{"no such port", c, "tcp", "10.43.0.20:81", refused},
			{"UDP from a pod", a, "udp", "10.43.0.25:80", "c 10.42.0.5"},
			{"UDP from the node", node, "udp", "10.43.0.25:80", "c"},
			{"UDP node port", client, "udp", "192.168.60.1:30025", "c"},
			{"UDP hairpin", c, "udp", "10.43.0.25:80", "c 10.42.0.1"},
			{"policy Local keeps the client's address", client, "tcp", "192.168.60.1:30026", "c 192.168.60.2"},
			{"DNS address from a pod", a, "udp", "10.43.0.10:53", "dns 10.42.0.5"},
			{"DNS address from a pod by TCP", c, "tcp", "10.43.0.10:53", "dns 10.42.0.6"},
			{"DNS address from the node", node, "udp", "10.43.0.10:53", "dns"},
			{"host port from outside", client, "tcp", "192.168.60.1:9090", "a 192.168.60.2"},
			{"host port from the pod itself", a, "tcp", "192.168.60.1:9090", "a 10.42.0.1"},
			{"host port from the node", node, "tcp", "192.168.60.1:9090", "a"},
			{"host port at localhost", node, "tcp", "127.0.0.1:9090", "a"},
			{"host port of one address", client, "udp", "192.168.60.1:9091", "a 192.168.60.2"},
			{"a pod's traffic to outside has the node's address", a, "tcp", "192.168.60.2:8080", "client 192.168.60.1"},
			{"a pod's traffic to a pod has its own", a, "tcp", "10.42.1.5:8080", "far 10.42.0.5"},
		}
		for _, test := range tests {
			t.Run(test.what, func(t *testing.T) {
				names, source, _ := strings.Cut(test.want, " ")
				left := map[string]bool{}
				for name := range strings.SplitSeq(names, "|") {
					left[name] = true
				}
				most := 60 // that one of two is not met in 60 tries has a probability of 2^-60
				if len(left) == 1 {
					most = 1
				}
				for range most {
					got, err := test.from.get(test.network, test.to)
					if errors.Is(err, syscall.ECONNREFUSED) {
						got = refused
					} else if err != nil {
						t.Fatal(err)
					}
					who, saw, _ := strings.Cut(got, " ")
					if !strings.Contains("|"+names+"|", "|"+who+"|") || source != "" && saw != source {
						t.Fatalf("got %q, want %q", got, test.want)
					}
					if delete(left, who); len(left) == 0 {
						return
					}
				}
				t.Fatalf("never answered by %v", left)
			})
		}
		t.Run("session affinity", func(t *testing.T) {
			first, err := c.get("tcp", "10.43.0.24:80")
			must(t, err)
			for range 20 {
				if next, err := c.get("tcp", "10.43.0.24:80"); err != nil || next != first {
					t.Fatalf("got %q, %v after %q", next, err, first)
				}
			}
		})
	})
}

// TestUDPEndpoints follows a client that keeps one socket, so that all its datagrams are one flow.
func TestUDPEndpoints(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		l := newLAN(t)
		a, c, client := l.host("a", "10.42.0.5", "10.42.0.1"), l.host("c", "10.42.0.6", "10.42.0.1"), l.host("d", "10.42.0.7", "10.42.0.1")
		for _, h := range []*netHost{a, c, client} {
			h.route("0.0.0.0/0", "10.42.0.1")
			h.serve(8080)
		}
		w := newWorld(t, b)
		svc := service("names", "10.43.0.30", "UDP")
		w.set(svc, 8080, "10.42.0.5")
		w.run()
		conn := client.dialUDP("10.43.0.30:80")
		defer conn.Close()
		for _, step := range []struct{ address, want string }{{"10.42.0.6", "c"}, {"10.42.0.5", "a"}} {
			w.set(svc, 8080, step.address)
			eventually.True(t, 5*time.Second, "answered by "+step.want, func() bool {
				got, err := ask(conn)
				return err == nil && strings.HasPrefix(got, step.want+" ")
			})
		}
		w.set(svc, 8080)
		eventually.True(t, 5*time.Second, "refused", func() bool { _, err := ask(conn); return err != nil })
		w.set(svc, 8080, "10.42.0.6")
		eventually.True(t, 5*time.Second, "answered again", func() bool {
			got, err := ask(conn)
			return err == nil && strings.HasPrefix(got, "c ")
		})
	})
}

func TestRepair(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		newLAN(t)
		w := newWorld(t, b)
		for i := range 30 {
			w.set(service(fmt.Sprintf("s%d", i), fmt.Sprintf("10.43.1.%d", i+1), "TCP", nodePort(30100+int32(i))), 8080,
				"10.42.0.5", "10.42.1.5")
		}
		tool := strings.TrimSuffix(b.restoring, "-restore")
		const foreign = "-A PREROUTING -p tcp -m tcp --dport 7 -j REDIRECT --to-ports 8"
		run := func(line string) { command(t, tool, strings.Fields(line)...) }
		run("-t nat " + foreign)
		run("-t nat -N OTHERS")
		run("-t nat -A OTHERS -j RETURN")
		w.run()
		want := w.ours(b)
		if len(want) < 100 {
			t.Fatalf("only %d rules are in the kernel", len(want))
		}
		some := ""
		for _, line := range want {
			if strings.HasPrefix(line, "-A LOCKSTEP-SVC-") {
				some = line
			}
		}
		some, _, _ = strings.Cut(some, " (")
		chain := strings.Fields(some)[1]

		faults := []struct {
			what string
			do   func()
			want What
		}{
			{"all rules of nat flushed", func() { run("-t nat -F") }, RuleMissing},
			{"all rules of filter flushed", func() { run("-t filter -F") }, RuleMissing},
			{"one rule removed", func() { run("-t nat -D" + strings.TrimPrefix(some, "-A")) }, RuleMissing},
			{"a foreign rule inside our chain", func() { run("-t nat -I " + chain + " 1 -p tcp -j ACCEPT") }, RuleForeign},
			{"a foreign rule at the end of our chain", func() { run("-t nat -A LOCKSTEP-SERVICES -j ACCEPT") }, RuleForeign},
			{"our jump removed", func() { run("-t nat -D PREROUTING -j LOCKSTEP-SERVICES") }, JumpMissing},
			{"our jump moved", func() {
				run("-t nat -D PREROUTING -j LOCKSTEP-SERVICES")
				run("-t nat -A PREROUTING -j LOCKSTEP-SERVICES")
			}, JumpMoved},
			{"our jump twice", func() { run("-t nat -A PREROUTING -j LOCKSTEP-SERVICES") }, JumpRepeated},
			{"our chain deleted", func() { // at once: a repair between two steps would make the rest fail
				must(t, b.restore(t.Context(), "*nat\n-F LOCKSTEP-SERVICES\n-D OUTPUT -j LOCKSTEP-SERVICES\n"+
					"-D PREROUTING -j LOCKSTEP-SERVICES\n-X LOCKSTEP-SERVICES\nCOMMIT\n"))
			}, ChainMissing},
			{"an unknown chain", func() { run("-t nat -N LOCKSTEP-X"); run("-t nat -A LOCKSTEP-X -j ACCEPT") }, ChainUnknown},
			{"the link deleted", func() { command(t, "ip", "link", "del", LinkName) }, SettingAbsent},
			{"the DNS address deleted", func() { command(t, "ip", "addr", "del", "10.43.0.10/32", "dev", LinkName) }, SettingAbsent},
			{"the link set down", func() { command(t, "ip", "link", "set", LinkName, "down") }, SettingAbsent},
			{"forwarding switched off", func() { must(t, os.WriteFile(sysctlForward, []byte("0"), 0o644)) }, SettingAbsent},
			{"the route deleted", func() { command(t, "ip", "route", "del", "10.43.0.0/16") }, SettingAbsent},
		}
		if b.nft() {
			faults = append(faults, []struct {
				what string
				do   func()
				want What
			}{
				{"everything flushed", func() { command(t, "nft", "flush", "ruleset") }, ChainMissing},
				{"a rule put by nft inside our chain",
					func() { command(t, "nft", "add", "rule", "ip", "nat", "LOCKSTEP-SERVICES", "counter", "drop") }, RuleForeign},
				{"a rule that only nft can print", func() {
					command(t, "nft", "add", "rule", "ip", "nat", "LOCKSTEP-EGRESS", "numgen", "random", "mod", "2", "0", "drop")
				}, RuleForeign},
			}...)
		}
		for _, fault := range faults {
			t.Run(fault.what, func(t *testing.T) {
				start := time.Now()
				fault.do()
				w.awaitDrift(t, fault.want)
				t.Logf("repaired after %s", time.Since(start).Round(time.Millisecond))
				eventually.True(t, 10*time.Second, "the rules are as before", func() bool {
					for len(w.drift) > 0 { // of a fault that took several commands
						<-w.drift
					}
					return strings.Join(w.ours(b), "\n") == strings.Join(want, "\n")
				})
			})
			// "-F" of a table takes the foreign rule too: that is the fault's doing.
			if save := command(t, b.saving, "-t", "nat"); !strings.Contains(save, foreign) {
				if !strings.Contains(fault.what, "flushed") {
					t.Fatalf("the foreign rule is gone after: %s", fault.what)
				}
				run("-t nat " + foreign)
			}
		}
		t.Run("foreign rules alone are no drift", func(t *testing.T) {
			for len(w.drift) > 0 {
				<-w.drift
			}
			if b.nft() { // one fault took it
				command(t, "nft", "add", "chain", "ip", "nat", "OTHERS")
			}
			run("-t nat -A OTHERS -p tcp -j ACCEPT")
			time.Sleep(5 * w.proxy.watchEvery)
			select {
			case d := <-w.drift:
				t.Fatalf("repaired %v", d.Findings)
			default:
			}
			if save := command(t, b.saving, "-t", "nat"); !strings.Contains(save, "-A OTHERS -p tcp -j ACCEPT") {
				t.Fatal("a foreign rule was removed")
			}
		})
	})
}

func (w *world) awaitDrift(t *testing.T, want What) {
	t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		select {
		case d := <-w.drift:
			for _, f := range d.Findings {
				if f.What == want {
					return
				}
			}
			t.Logf("other findings: %v", d.Findings)
		case <-timeout:
			t.Fatalf("no repair of %q within 10 s", want)
		}
	}
}

// ours are the rules of our chains, and our jumps with their positions, chain by chain.
func (w *world) ours(b *backend) []string {
	have, err := observe(noContext{}, b)
	must(w.t, err)
	var out []string
	for id, list := range have.chains {
		for i, rule := range list {
			out = append(out, fmt.Sprintf("-A %s %s (%s %d)", id.Name, rule, id.Table, i))
		}
	}
	for _, j := range rules.Jumps() {
		for i, rule := range have.builtins[j.From] {
			if rule == j.Rule() {
				out = append(out, fmt.Sprintf("-A %s %s (%s %d)", j.From.Name, rule, j.From.Table, i))
			}
		}
	}
	slices.Sort(out)
	return out
}

// TestLongNames: what the kernel cuts is cut before, so that rules read back as they were made: a pod's name may be longer
// than a comment.
func TestLongNames(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		newLAN(t)
		w := newWorld(t, b)
		w.in.HostPorts = []rules.HostPort{{
			Pod:      strings.Repeat("n", 63) + "/" + strings.Repeat("p", 253),
			PodIP:    netip.MustParseAddr("10.42.0.5"),
			Port:     8080,
			HostPort: 9090,
		}}
		long := strings.Repeat("s", 63)
		svc := service(long, "10.43.0.20", "TCP")
		svc.Namespace, svc.Spec.Ports[0].Name = strings.Repeat("n", 63), strings.Repeat("p", 63)
		w.set(svc, 8080, "10.42.0.5")
		w.run()
		tool := strings.TrimSuffix(b.restoring, "-restore")
		command(t, tool, "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "7", "-j", "ACCEPT") // has the rules read
		select {
		case d := <-w.drift:
			t.Errorf("drift without one: %v", d.Findings)
		case <-time.After(3 * time.Second):
		}
	})
}

func TestCleanup(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		newLAN(t)
		picture := func() string {
			var s strings.Builder
			for line := range strings.Lines(command(t, b.saving, "-t", "nat") + command(t, b.saving, "-t", "filter")) {
				if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, ":PREROUTING") && !strings.HasPrefix(line, ":OUTPUT") &&
					!strings.HasPrefix(line, ":INPUT") && !strings.HasPrefix(line, ":POSTROUTING") && !strings.HasPrefix(line, ":FORWARD") {
					s.WriteString(line)
				}
			}
			return s.String() + command(t, "ip", "-o", "link") + command(t, "ip", "route") + command(t, "cat", sysctlRouteLocal)
		}
		tool := strings.TrimSuffix(b.restoring, "-restore")
		command(t, tool, "-t", "nat", "-A", "OUTPUT", "-p", "udp", "-j", "ACCEPT")
		command(t, "ip", "link", "add", "first", "type", "bridge") // loads what a link needs
		command(t, "ip", "link", "del", "first")
		before := picture()
		w := newWorld(t, b)
		w.set(service("one", "10.43.0.20", "TCP"), 8080, "10.42.0.5")
		must(t, w.proxy.Sync(t.Context()))
		if picture() == before {
			t.Fatal("the proxy made nothing")
		}
		for range 2 {
			must(t, Cleanup(t.Context()))
			if after := picture(); after != before {
				t.Fatalf("before:\n%s\nafter:\n%s", before, after)
			}
		}
	})
}

// TestDetect: a proxy that starts again finds its rules, whatever else there is.
func TestDetect(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		newLAN(t)
		for _, other := range backends(t) {
			if other.name != b.name {
				tool := strings.TrimSuffix(other.restoring, "-restore")
				for range 3 {
					command(t, tool, "-t", "filter", "-A", "OUTPUT", "-j", "ACCEPT")
				}
			}
		}
		w := newWorld(t, b)
		must(t, w.proxy.Sync(t.Context()))
		name, restore, err := Backend(t.Context())
		if err != nil || name != b.name || restore != b.restoring {
			t.Errorf("got %s, %s, %v", name, restore, err)
		}
	})
}
