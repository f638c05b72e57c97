package rules

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/yaml"

	"lockstep/internal/golden"
	"lockstep/internal/short"
)

// settings are an Input without its objects, as cases state them in node.yaml.
type settings struct {
	Node           Node
	HostPorts      []HostPort
	Servers        []netip.AddrPort
	LocalhostPorts bool
}

// readInput reads a case: node.yaml and objects.yaml.
func readInput(t testing.TB, a *txtar.Archive) Input {
	t.Helper()
	s := settings{Node: Node{
		Name: "here", Addresses: []netip.Addr{netip.MustParseAddr("192.168.60.1")},
		PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/24")},
	}}
	if text := golden.Section(a, "node.yaml"); text != "" {
		must(t, yaml.UnmarshalStrict([]byte(text), &s))
	}
	in := Input{
		Node: s.Node, HostPorts: s.HostPorts, Servers: s.Servers, LocalhostPorts: s.LocalhostPorts,
		PodNetworks:     []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")},
		ServiceNetworks: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")},
		LocalServices:   []netip.Addr{netip.MustParseAddr("10.43.0.10")},
	}
	for doc := range strings.SplitSeq(golden.Section(a, "objects.yaml"), "---\n") {
		var kind struct{ Kind string }
		must(t, yaml.Unmarshal([]byte(doc), &kind))
		switch kind.Kind {
		case "Service":
			o := &corev1.Service{}
			must(t, yaml.UnmarshalStrict([]byte(doc), o))
			in.Services = append(in.Services, o)
		case "EndpointSlice":
			o := &discoveryv1.EndpointSlice{}
			must(t, yaml.UnmarshalStrict([]byte(doc), o))
			in.Slices = append(in.Slices, o)
		}
	}
	return in
}

// TestGolden compares the text of each case, and the outcomes of the packets that it names. The
// outcome of a line "from -> proto to" is after "=".
func TestGolden(t *testing.T) {
	golden.Sections(t, "testdata", func(t *testing.T, c *txtar.Archive) []txtar.File {
		in := readInput(t, c)
		text := Compile(in, IPv4).Text()
		for range 5 {
			rand.Shuffle(len(in.Services), func(i, j int) { in.Services[i], in.Services[j] = in.Services[j], in.Services[i] })
			rand.Shuffle(len(in.Slices), func(i, j int) { in.Slices[i], in.Slices[j] = in.Slices[j], in.Slices[i] })
			rand.Shuffle(len(in.HostPorts), func(i, j int) { in.HostPorts[i], in.HostPorts[j] = in.HostPorts[j], in.HostPorts[i] })
			if Compile(in, IPv4).Text() != text {
				t.Fatal("another order of the input gives another text")
			}
		}
		return []txtar.File{
			{Name: "packets", Data: []byte(tracePackets(t, text, golden.Section(c, "packets")))},
			{Name: "rules", Data: []byte(text)},
		}
	})
}

// nodeAddresses are what the tracer's node has.
func nodeAddresses() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("192.168.60.1/32"), netip.MustParsePrefix("127.0.0.0/8"),
		netip.MustParsePrefix("10.42.0.1/32"), netip.MustParsePrefix("10.43.0.10/32"),
	}
}

func tracePackets(t *testing.T, text, lines string) string {
	t.Helper()
	k, err := parseKernel(text, nodeAddresses())
	must(t, err)
	var b strings.Builder
	for line := range strings.Lines(lines) {
		question, _, _ := strings.Cut(strings.TrimSpace(line), " =")
		words := strings.Fields(question) // from -> proto to
		to := netip.MustParseAddrPort(words[3])
		p := packet{proto: words[2], dst: to.Addr(), port: to.Port()}
		if p.direct = words[0] == "agent"; words[0] == "node" || p.direct {
			p.fromNode, p.src = true, netip.MustParseAddr("192.168.60.1")
			if to.Addr().IsLoopback() {
				p.src = to.Addr()
			}
		} else {
			p.src = netip.MustParseAddr(words[0])
		}
		ways, err := k.trace(p)
		must(t, err)
		b.WriteString(question + " = " + describe(ways) + "\n")
		for _, w := range ways {
			if len(w.remember) == 0 {
				continue
			}
			again := p
			again.remember = w.remember
			ways, err := k.trace(again)
			must(t, err)
			if got := describe(ways); got != w.String() {
				t.Errorf("%s: the client of %s is sent to %s later", question, w, got)
			}
		}
	}
	return b.String()
}

func describe(ways []way) string {
	sum := map[string]float64{}
	for _, w := range ways {
		sum[w.String()] += w.p
	}
	var parts []string
	for s, p := range sum {
		if math.Abs(p-1) > 1e-6 {
			s += " " + strconv.FormatFloat(100*p, 'f', 1, 64) + "%"
		}
		parts = append(parts, s)
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

// TestReach asks of random clusters that every port of every service leads to each of its
// endpoints with the same probability, over few rules.
func TestReach(t *testing.T) {
	for seed := range short.Of(10) {
		g := generator{rand.New(rand.NewPCG(seed, 1))}
		in := g.input(1 + g.IntN(300))
		k, err := parseKernel(Compile(in, IPv4).Text(), nodeAddresses())
		must(t, err)
		byName := map[string][]*discoveryv1.EndpointSlice{}
		for _, s := range in.Slices {
			name := s.Labels[discoveryv1.LabelServiceName]
			byName[name] = append(byName[name], s)
		}
		for _, svc := range in.Services {
			for i := range svc.Spec.Ports {
				port := &svc.Spec.Ports[i]
				want := selectEndpoints(IPv4, port, byName[svc.Name], in.Node.Name).all
				ask := packet{
					src:   netip.MustParseAddr("10.42.0.99"),
					proto: strings.ToLower(string(port.Protocol)),
					dst:   netip.MustParseAddr(svc.Spec.ClusterIP),
					port:  uint16(port.Port),
				}
				reach(t, k, svc, ask, want, false)
				if port.NodePort != 0 {
					ask.src, ask.dst, ask.port = netip.MustParseAddr("192.168.60.2"),
						netip.MustParseAddr("192.168.60.1"), uint16(port.NodePort)
					reach(t, k, svc, ask, want, true)
				}
			}
		}
	}
}

func reach(t *testing.T, k *kernel, svc *corev1.Service, ask packet, want []endpoint, masqueraded bool) {
	t.Helper()
	ways, err := k.trace(ask)
	must(t, err)
	left := map[string]bool{}
	for _, e := range want {
		left[e.String()] = true
	}
	for _, w := range ways {
		if len(want) == 0 {
			if w.verdict != "reject" {
				t.Fatalf("%s without endpoints: %s", svc.Name, w)
			}
			return
		}
		to := netip.AddrPortFrom(w.dst, w.port).String()
		if w.verdict != "accept" || !left[to] || math.Abs(w.p-1/float64(len(want))) > 1e-6 || w.masquerade != masqueraded {
			t.Fatalf("%s: got %s with probability %g, want one of %d", svc.Name, w, w.p, len(want))
		}
		delete(left, to)
		if w.steps > 100 {
			t.Errorf("%s: %d rules were compared", svc.Name, w.steps)
		}
	}
	if len(left) > 0 {
		t.Fatalf("%s: never reaches %v", svc.Name, left)
	}
}

// TestTransitions walks one Compiler through random changes: at every step it must equal one that
// remembers nothing, and chains that nothing changed must be the same pointers.
func TestTransitions(t *testing.T) {
	for seed := range short.Of(5) {
		g := generator{rand.New(rand.NewPCG(seed, 2))}
		c := NewCompiler(IPv4)
		in := g.input(40)
		previous := c.Compile(in)
		for step := range 150 {
			in = g.change(in)
			next := c.Compile(in)
			fresh := Compile(in, IPv4)
			if d := gocmp.Diff(fresh.Text(), next.Text()); d != "" {
				t.Fatalf("seed %d, step %d:\n%s", seed, step, d)
			}
			if !next.UDP.Equal(fresh.UDP) {
				t.Fatalf("seed %d, step %d: other UDP endpoints", seed, step)
			}
			for id, chain := range next.Chains {
				if old := previous.Chains[id]; old != nil && strings.HasPrefix(id.Name, Prefix+"SVC-") && old != chain && old.Equal(chain) {
					t.Fatalf("seed %d, step %d: %s is equal but not the same", seed, step, id.Name)
				}
			}
			previous = next
		}
	}
}

// TestOneEndpoint counts the chains that one endpoint's change touches.
func TestOneEndpoint(t *testing.T) {
	g := generator{rand.New(rand.NewPCG(1, 3))}
	in := g.input(500)
	c := NewCompiler(IPv4)
	before := c.Compile(in)
	i := slices.IndexFunc(in.Slices, func(s *discoveryv1.EndpointSlice) bool { return len(s.Endpoints) > 1 && len(s.Ports) == 1 })
	s := in.Slices[i].DeepCopy()
	s.ResourceVersion = "changed"
	s.Endpoints[0].Addresses = []string{"10.42.9.9"}
	s.Endpoints[0].NodeName = new(string)
	in.Slices = slices.Clone(in.Slices)
	in.Slices[i] = s
	after := c.Compile(in)
	var changed []string
	for id, chain := range after.Chains {
		if !chain.Equal(before.Chains[id]) {
			changed = append(changed, id.Name)
		}
	}
	// The hairpin's chains differ if it was a local one.
	changed = slices.DeleteFunc(changed, func(name string) bool {
		return name == chainHairpin || strings.HasPrefix(name, Prefix+"SELF-")
	})
	if len(changed) != 1 {
		t.Fatalf("changed %v", changed)
	}
}

func TestFamilies(t *testing.T) {
	in := Input{
		Node: Node{Name: "here"}, PodNetworks: []netip.Prefix{netip.MustParsePrefix("fd00:42::/56"), netip.MustParsePrefix("10.42.0.0/16")},
		ServiceNetworks: []netip.Prefix{netip.MustParsePrefix("fd00:43::/112")},
		Services: []*corev1.Service{{Spec: corev1.ServiceSpec{
			ClusterIP: "fd00:43::7", ClusterIPs: []string{"fd00:43::7", "10.43.0.7"},
			Ports: []corev1.ServicePort{{Port: 80, Protocol: "TCP"}},
		}}},
	}
	in.Services[0].Name = "six"
	port := int32(8080)
	in.Slices = []*discoveryv1.EndpointSlice{{
		AddressType: "IPv6",
		Ports:       []discoveryv1.EndpointPort{{Port: &port}},
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"fd00:42::5"}}},
	}}
	in.Slices[0].Labels = map[string]string{discoveryv1.LabelServiceName: "six"}
	text := Compile(in, IPv6).Text()
	for _, want := range []string{
		"-d fd00:43::7/128 -p tcp", "--to-destination [fd00:42::5]:8080", "icmp6-port-unreachable",
		"-s fd00:42::/56 -j ACCEPT",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "10.4") || strings.Contains(Compile(in, IPv4).Text(), "fd00") {
		t.Error("the families are mixed")
	}
}

// generator makes random clusters.
type generator struct{ *rand.Rand }

func (g generator) input(n int) Input {
	in := Input{
		Node: Node{
			Name:      "here",
			Addresses: []netip.Addr{netip.MustParseAddr("192.168.60.1")},
			PodCIDRs:  []netip.Prefix{netip.MustParsePrefix("10.42.0.0/24")},
		},
		PodNetworks:     []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")},
		ServiceNetworks: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")},
		LocalServices:   []netip.Addr{netip.MustParseAddr("10.43.0.10")},
	}
	for i := range n {
		svc, list := g.service(i)
		in.Services, in.Slices = append(in.Services, svc), append(in.Slices, list...)
	}
	return in
}

// service makes the i-th service; its addresses and ports are those of no other.
func (g generator) service(i int) (*corev1.Service, []*discoveryv1.EndpointSlice) {
	svc := &corev1.Service{Spec: corev1.ServiceSpec{ClusterIP: fmt.Sprintf("10.43.%d.%d", 1+i/250, 1+i%250)}}
	svc.Namespace, svc.Name, svc.ResourceVersion = "shop", fmt.Sprintf("s%d", i), strconv.FormatUint(g.Uint64(), 16)
	if g.IntN(4) == 0 {
		svc.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	}
	slice := &discoveryv1.EndpointSlice{AddressType: "IPv4"}
	slice.Namespace, slice.Name, slice.ResourceVersion = svc.Namespace, svc.Name+"-x", strconv.FormatUint(g.Uint64(), 16)
	slice.Labels = map[string]string{discoveryv1.LabelServiceName: svc.Name}
	for p := range 1 + g.IntN(2) {
		port := corev1.ServicePort{Name: fmt.Sprintf("p%d", p), Port: int32(80 + p), Protocol: "TCP"}
		if g.IntN(4) == 0 {
			port.Protocol = "UDP"
		}
		if g.IntN(3) == 0 {
			port.NodePort = int32(30000 + 2*i + p)
		}
		number := int32(8080 + p)
		svc.Spec.Ports = append(svc.Spec.Ports, port)
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &port.Name, Protocol: &port.Protocol, Port: &number})
	}
	for range g.IntN(6) {
		ready, node := g.IntN(5) > 0, "there"
		subnet := g.IntN(3)
		if subnet == 0 {
			node = "here"
		}
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{fmt.Sprintf("10.42.%d.%d", subnet, 2+g.IntN(90))}, NodeName: &node,
			Conditions: discoveryv1.EndpointConditions{Ready: &ready},
		})
	}
	return svc, []*discoveryv1.EndpointSlice{slice}
}

// change adds, replaces or removes a service or its endpoints.
func (g generator) change(in Input) Input {
	i := g.IntN(50)
	name := fmt.Sprintf("s%d", i)
	svc, list := g.service(i)
	in.Services, in.Slices = slices.Clone(in.Services), slices.Clone(in.Slices)
	dropSlices := func() {
		in.Slices = slices.DeleteFunc(in.Slices, func(s *discoveryv1.EndpointSlice) bool {
			return s.Labels[discoveryv1.LabelServiceName] == name
		})
	}
	dropService := func() {
		in.Services = slices.DeleteFunc(in.Services, func(s *corev1.Service) bool { return s.Name == name })
	}
	switch g.IntN(5) {
	case 0:
		dropService()
	case 1:
		dropSlices()
	case 2:
		dropService()
		in.Services = append(in.Services, svc)
	case 3:
		dropSlices()
		in.Slices = append(in.Slices, list...)
	case 4:
		in.Node.Name = cmp.Or(map[string]string{"here": "there"}[in.Node.Name], "here")
	}
	return in
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
