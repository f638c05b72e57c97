package proxy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lockstep/proxy/rules"
)

func equal(want *rules.Chain, have []string) bool { return slices.Equal(want.Rules, have) }

// TestTransitions walks one table through random rule sets and random vandalism: after each step
// it must hold exactly the rules wanted, and foreign rules as they were.
func TestTransitions(t *testing.T) {
	g := rand.New(rand.NewPCG(1, 2))
	k := newContent()
	foreign := rules.ChainID{Table: rules.NAT, Name: "PREROUTING"}
	k[foreign] = []string{"-p tcp -j ACCEPT"}
	w := &world{t: t, in: newWorld(t, &backend{}).in}
	var applied map[rules.ChainID]*rules.Chain
	for step := range 300 {
		i := g.IntN(30)
		var addresses []string
		for e := range g.IntN(4) {
			addresses = append(addresses, fmt.Sprintf("10.42.%d.%d", g.IntN(2), 5+e))
		}
		w.set(service(fmt.Sprintf("s%d", i), fmt.Sprintf("10.43.1.%d", i+1), "TCP", nodePort(30000+int32(i))), 8080, addresses...)
		if g.IntN(3) == 0 {
			w.in.Services = without(w.in.Services, fmt.Sprintf("s%d", g.IntN(30)))
		}
		want := rules.Compile(w.in, rules.IPv4)
		c := between(applied, want.Chains)
		if step == 0 || g.IntN(4) == 0 {
			vandalise(g, k)
			c = toward(observeFake(k), want.Chains, equal)
		}
		text, _ := c.text()
		must(t, k.restore(text))
		applied = want.Chains
		if f := compare(observeFake(k), applied, equal); len(f) > 0 {
			t.Fatalf("step %d: %v", step, f)
		}
		if c := toward(observeFake(k), applied, equal); !c.empty() {
			t.Fatalf("step %d: a second repair would change something", step)
		}
		if !slices.Equal(k[foreign][1:], []string{"-p tcp -j ACCEPT"}) {
			t.Fatalf("step %d: foreign rules are now %q", step, k[foreign])
		}
	}
	must(t, k.restore(removal(observeFake(k))))
	for id, list := range k {
		if strings.HasPrefix(id.Name, rules.Prefix) || id != foreign && len(list) > 0 {
			t.Errorf("%v remains: %q", id, list)
		}
	}
	if removal(observeFake(k)) != "" {
		t.Error("a second removal would change something")
	}
}

// vandalise does one thing that a hand might do.
func vandalise(g *rand.Rand, k content) {
	var ours []rules.ChainID
	for id := range k {
		if strings.HasPrefix(id.Name, rules.Prefix) {
			ours = append(ours, id)
		}
	}
	slices.SortFunc(ours, rules.ChainID.Compare)
	jump := rules.Jumps()[g.IntN(len(rules.Jumps()))]
	if len(ours) == 0 {
		return
	}
	victim := ours[g.IntN(len(ours))]
	switch g.IntN(5) {
	case 0:
		k[victim] = nil
	case 1:
		k[victim] = slices.Insert(k[victim], 0, "-j ACCEPT")
	case 2:
		k[jump.From] = slices.DeleteFunc(k[jump.From], func(r string) bool { return r == jump.Rule() })
	case 3:
		k[jump.From] = append(k[jump.From], jump.Rule())
	case 4:
		k[rules.ChainID{Table: rules.NAT, Name: rules.Prefix + "UNKNOWN"}] = []string{"-j RETURN"}
	}
}

func TestCompare(t *testing.T) {
	id := rules.ChainID{Table: rules.NAT, Name: rules.Prefix + "A"}
	applied := map[rules.ChainID]*rules.Chain{id: {ChainID: id, Rules: []string{"-j X", "-j Y"}}}
	intact := func() observed {
		o := observeFake(newContent())
		o.chains[id] = []string{"-j X", "-j Y"}
		for _, j := range rules.Jumps() {
			o.builtins[j.From] = []string{j.Rule(), "-j OTHER"}
		}
		return o
	}
	prerouting := rules.ChainID{Table: rules.NAT, Name: "PREROUTING"}
	jump := "-j " + rules.Prefix + "SERVICES"
	tests := []struct {
		what string
		do   func(observed)
		want []string
	}{
		{"nothing", func(observed) {}, nil},
		{"flushed", func(o observed) { o.chains[id] = nil },
			[]string{"nat LOCKSTEP-A: rule missing: -j X", "nat LOCKSTEP-A: rule missing: -j Y"}},
		{"deleted", func(o observed) { delete(o.chains, id) }, []string{"nat LOCKSTEP-A: chain missing"}},
		{"foreign rule", func(o observed) { o.chains[id] = append(o.chains[id], "-j Z") }, []string{"nat LOCKSTEP-A: foreign rule: -j Z"}},
		{"rule twice", func(o observed) { o.chains[id] = append(o.chains[id], "-j X") }, []string{"nat LOCKSTEP-A: foreign rule: -j X"}},
		{"reordered", func(o observed) { slices.Reverse(o.chains[id]) }, []string{"nat LOCKSTEP-A: rules reordered"}},
		{"jump gone", func(o observed) { o.builtins[prerouting] = nil }, []string{"nat PREROUTING: jump missing: " + jump}},
		{"jump moved", func(o observed) { slices.Reverse(o.builtins[prerouting]) }, []string{"nat PREROUTING: jump not first: " + jump}},
		{"jump twice", func(o observed) { o.builtins[prerouting] = []string{jump, jump} },
			[]string{"nat PREROUTING: jump more than once: " + jump}},
		{"unknown chain", func(o observed) { o.chains[rules.ChainID{Table: "nat", Name: "LOCKSTEP-B"}] = nil },
			[]string{"nat LOCKSTEP-B: unknown chain with our prefix"}},
	}
	for _, test := range tests {
		t.Run(test.what, func(t *testing.T) {
			o := intact()
			test.do(o)
			var got []string
			for _, f := range compare(o, applied, equal) {
				got = append(got, f.String())
			}
			if d := cmp.Diff(test.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestHeld keeps a chain that a foreign rule leads to: it cannot be deleted.
func TestHeld(t *testing.T) {
	k := newContent()
	id := rules.ChainID{Table: rules.NAT, Name: rules.Prefix + "OLD"}
	k[id] = []string{"-j ACCEPT"}
	k[rules.ChainID{Table: rules.NAT, Name: "OTHERS"}] = []string{"-p tcp -j " + id.Name}
	c := toward(observeFake(k), nil, equal)
	c.jumps = nil
	text, _ := c.text()
	must(t, k.restore(text))
	if list, ok := k[id]; !ok || len(list) > 0 {
		t.Errorf("got %q, %t", list, ok)
	}
	if f := compare(observeFake(k), nil, equal); slices.ContainsFunc(f, func(f Finding) bool { return f.What == ChainUnknown }) {
		t.Errorf("got %v", f)
	}
}

// TestYield: a jump is put first again only so often within a while.
func TestYield(t *testing.T) {
	p, err := New(Options{State: func() rules.Input { return rules.Input{} }})
	must(t, err)
	now := time.Unix(1000, 0)
	step := func() int {
		f, c := p.keepers[0].yield([]Finding{{What: JumpMoved}}, change{jumps: []jumpChange{{copies: 1}}}, now)
		if len(f) != len(c.jumps) {
			t.Fatalf("%d findings, %d jumps", len(f), len(c.jumps))
		}
		return len(c.jumps)
	}
	for i := range displacedMost {
		if now = now.Add(time.Second); step() != 1 {
			t.Fatalf("not repaired the time %d", i)
		}
	}
	if step() != 0 {
		t.Error("repaired for ever")
	}
	if now = now.Add(displacedWindow); step() != 1 {
		t.Error("not repaired after the window")
	}
}

func TestChoose(t *testing.T) {
	tests := []struct {
		what        string
		nft, legacy use
		want        int
	}{
		{"nothing anywhere", use{}, use{}, 0},
		{"more rules", use{rules: 3}, use{rules: 9}, 1},
		{"the kubelet's hint before rules", use{hints: true}, use{rules: 9}, 0},
		{"our own chains before all", use{hints: true, rules: 9}, use{ours: true}, 1},
	}
	for _, test := range tests {
		if got := choose([]use{test.nft, test.legacy}); got != test.want {
			t.Errorf("%s: got %d", test.what, got)
		}
	}
}

func TestStale(t *testing.T) {
	at := netip.MustParseAddrPort
	s := staleFlows{
		udp: rules.UDP{
			Addresses: map[netip.AddrPort][]netip.AddrPort{at("10.43.0.5:53"): {at("10.42.0.5:1053")}, at("10.43.0.6:53"): nil},
			NodePorts: map[uint16][]netip.AddrPort{30053: {at("10.42.0.5:1053")}},
		},
		local: []netip.Addr{netip.MustParseAddr("192.168.60.1")},
	}
	tests := []struct {
		what, to, by string
		want         bool
	}{
		{"a living endpoint", "10.43.0.5:53", "10.42.0.5:1053", false},
		{"a dead endpoint", "10.43.0.5:53", "10.42.0.6:1053", true},
		{"not translated before there was an endpoint", "10.43.0.5:53", "10.43.0.5:53", true},
		{"a service without endpoints", "10.43.0.6:53", "10.42.0.6:1053", true},
		{"node port, living", "192.168.60.1:30053", "10.42.0.5:1053", false},
		{"node port, dead", "192.168.60.1:30053", "10.42.0.6:1053", true},
		{"the same port elsewhere", "192.168.60.9:30053", "192.168.60.9:30053", false},
		{"nothing of ours", "192.168.60.1:500", "192.168.60.1:500", false},
	}
	for _, test := range tests {
		if got := s.stale(at(test.to), at(test.by)); got != test.want {
			t.Errorf("%s: got %t", test.what, got)
		}
	}
}
