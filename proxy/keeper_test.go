package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"lockstep/internal/short"
	"lockstep/proxy/rules"
)

// TestTables holds the fake to what the real ones do: one script, carried out by each, shows the same.
func TestTables(t *testing.T) {
	script := []string{
		"*nat\n:LOCKSTEP-A - [0:0]\n-A LOCKSTEP-A -j RETURN\nCOMMIT\n",
		"*nat\n:LOCKSTEP-A - [0:0]\nCOMMIT\n", // emptied
		"*filter\n:LOCKSTEP-F - [0:0]\n-A LOCKSTEP-F -j RETURN\nCOMMIT\n*nat\n:LOCKSTEP-B - [0:0]\n-A LOCKSTEP-B -j LOCKSTEP-A\nCOMMIT\n",
		"*nat\n:LOCKSTEP-C - [0:0]\n-A LOCKSTEP-C -j LOCKSTEP-MISSING\nCOMMIT\n",                               // leads nowhere
		"*filter\n:LOCKSTEP-G - [0:0]\nCOMMIT\n*nat\n:LOCKSTEP-C - [0:0]\n-X LOCKSTEP-A\nCOMMIT\n",             // A is in use: nat stays
		"*nat\n-I PREROUTING 1 -j LOCKSTEP-B\n-A PREROUTING -j LOCKSTEP-A\nCOMMIT\n",                           // jumps
		"*nat\n-D PREROUTING -j LOCKSTEP-MISSING\nCOMMIT\n",                                                    // is not there
		"*nat\n:LOCKSTEP-A - [0:0]\n:LOCKSTEP-B - [0:0]\n-D PREROUTING -j LOCKSTEP-B\n-X LOCKSTEP-B\nCOMMIT\n", // removed, as a change does
		"*nat\n-D PREROUTING -j LOCKSTEP-A\n-X LOCKSTEP-A\nCOMMIT\n",
		"*filter\n:LOCKSTEP-F - [0:0]\n:LOCKSTEP-G - [0:0]\n-X LOCKSTEP-F\n-X LOCKSTEP-G\nCOMMIT\n",
	}
	prerouting := rules.ChainID{Table: rules.NAT, Name: "PREROUTING"}
	play := func(on tables) (steps []string) {
		for _, text := range script {
			before, err := on.generation()
			must(t, err)
			failed := on.restore(t.Context(), text) != nil
			after, err := on.generation()
			must(t, err)
			have, err := observe(t.Context(), on)
			must(t, err)
			var lines []string
			for id, list := range have.chains {
				lines = append(lines, fmt.Sprint(id, list))
			}
			slices.Sort(lines)
			step := fmt.Sprint("failed ", failed, " ", lines, have.builtins[prerouting], have.held,
				on.has(t.Context(), rules.Jump{From: prerouting, To: "LOCKSTEP-A"}),
				on.has(t.Context(), rules.Jump{From: prerouting, To: "LOCKSTEP-B"}))
			if on.counts() {
				step += fmt.Sprint(" transactions ", after-before)
			}
			steps = append(steps, step)
		}
		return steps
	}
	compare := func(t *testing.T, on tables, want []string) {
		for i, got := range play(on) {
			if got != want[i] {
				t.Errorf("step %d, %q:\n%s\nwant\n%s", i, script[i], got, want[i])
			}
		}
	}
	counted, uncounted := play(&fake{content: newContent(), ledger: &ledger{}}), play(&fake{content: newContent()})
	if last := counted[len(counted)-1]; !strings.HasPrefix(last, "failed false []") {
		t.Errorf("at the end something is left: %s", last)
	}
	needsKernel(t)
	wipe(t)
	defer wipe(t)
	for _, family := range rules.Families() {
		found, err := installed(t.Context(), family)
		must(t, err)
		for _, b := range found {
			t.Run(fmt.Sprint(family, " ", b.name), func(t *testing.T) {
				if b.counts() {
					compare(t, b, counted)
				} else {
					compare(t, b, uncounted)
				}
			})
		}
	}
}

// dual is a service of both families, with endpoints of either.
func dual(i int, endpoints int) (*corev1.Service, []*discoveryv1.EndpointSlice) {
	svc := service(fmt.Sprintf("s%d", i), fmt.Sprintf("10.43.1.%d", i+1), "UDP", nodePort(30000+int32(i)))
	svc.Spec.ClusterIPs = []string{svc.Spec.ClusterIP, fmt.Sprintf("fd00:43::%x", i+1)}
	var four, six []string
	for e := range endpoints {
		four, six = append(four, fmt.Sprintf("10.42.0.%d", e+5)), append(six, fmt.Sprintf("fd00:42::%x", e+5))
	}
	slices4, slices6 := slice(svc, 8080, four...), slice(svc, 8080, six...)
	slices6.Name, slices6.AddressType = svc.Name+"-6", discoveryv1.AddressTypeIPv6
	return svc, []*discoveryv1.EndpointSlice{slices4, slices6}
}

// TestKeepers walks a proxy of both families, on kernels without one, through random states of the cluster, hand edits of
// either family, links that vanish, and times in which nothing works: in the end each family is as wanted, and what is not
// ours as it was. Where nobody else wrote, no drift is told: one family's transactions are no hand edit to the other.
func TestKeepers(t *testing.T) {
	for _, counted := range []bool{true, false} {
		for seed := range short.Of(5) {
			t.Run(fmt.Sprintf("counted=%t/%d", counted, seed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { walkKeepers(t, counted, seed) })
			})
		}
	}
}

func walkKeepers(t *testing.T, counted bool, seed uint64) {
	g := rand.New(rand.NewPCG(seed, 7))
	in := rules.Input{
		Node:            rules.Node{Name: "here", PodCIDRs: []netip.Prefix{prefix("10.42.0.0/24"), prefix("fd00:42::/64")}},
		PodNetworks:     []netip.Prefix{prefix("10.42.0.0/16"), prefix("fd00:42::/56")},
		ServiceNetworks: []netip.Prefix{prefix("10.43.0.0/16"), prefix("fd00:43::/112")},
	}
	wake := make(chan struct{}, 1)
	var world sync.Mutex // held by the test but while time passes
	var drifts []Drift
	pass := func(d time.Duration) {
		world.Unlock()
		time.Sleep(d)
		synctest.Wait()
		world.Lock()
	}
	p, err := New(Options{
		State: func() rules.Input {
			world.Lock()
			defer world.Unlock()
			now := in
			now.Services, now.Slices = slices.Clone(in.Services), slices.Clone(in.Slices)
			return now
		},
		Drift: func(d Drift) {
			world.Lock()
			defer world.Unlock()
			drifts = append(drifts, d)
		},
		Wake: wake, Families: rules.Families(), Log: slog.New(slog.DiscardHandler),
	})
	must(t, err)
	var count *ledger
	if counted {
		count = &ledger{}
	}
	fakes := map[rules.Family]*fake{}
	foreign := rules.ChainID{Table: rules.NAT, Name: "PREROUTING"}
	for _, k := range p.keepers {
		f := &fake{content: newContent(), ledger: count, world: &world}
		f.content[foreign] = []string{"-p tcp -j ACCEPT"}
		fakes[k.family], k.kernel = f, f
	}
	if err := p.Health(); !errors.Is(err, ErrNotSynced) {
		t.Errorf("before the start: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.Run(ctx) }()
	defer func() {
		cancel()
		must(t, <-done)
	}()
	synctest.Wait()
	world.Lock()
	defer world.Unlock()
	for step := range 60 {
		drifts = nil
		family := rules.Families()[g.IntN(2)]
		f := fakes[family]
		vandal, broke, changed := false, false, g.IntN(2) == 0
		switch g.IntN(5) {
		case 0:
			vandal = true
			before := fmt.Sprint(f.content)
			vandalise(g, f.content)
			if vandal = fmt.Sprint(f.content) != before; vandal && count != nil {
				count.number++
			}
		case 1:
			f.link, vandal = []string{"link"}, true
		case 2:
			f.broken, broke = errBroken, true
		}
		if changed {
			i := g.IntN(6)
			svc, list := dual(i, g.IntN(4))
			in.Services = without(in.Services, svc.Name)
			in.Slices = without(without(in.Slices, svc.Name), svc.Name+"-6")
			if g.IntN(3) > 0 {
				in.Services, in.Slices = append(in.Services, svc), append(in.Slices, list...)
			}
			wake <- struct{}{}
		}
		pass(legacyReadMost + 2*watchInterval)
		if broke {
			if counted && p.Health() == nil {
				t.Fatalf("step %d: all is well while nothing works", step)
			}
			f.broken = nil
			pass(retryMost + 2*watchInterval)
		}
		if err := p.Health(); err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		for _, d := range drifts {
			if !vandal || d.Family != family {
				t.Fatalf("step %d: drift of %s %v, vandal %t of %s", step, d.Family, d.Findings, vandal, family)
			}
		}
		if vandal && !changed && len(drifts) == 0 { // a change may write over it
			t.Fatalf("step %d: nobody noticed", step)
		}
		for _, family := range rules.Families() {
			have := observeFake(fakes[family].content)
			if found := compare(have, rules.Compile(in, family).Chains, equal); len(found) > 0 {
				t.Fatalf("step %d: %s has %v", step, family, found)
			}
			if !slices.Equal(fakes[family].content[foreign][1:], []string{"-p tcp -j ACCEPT"}) {
				t.Fatalf("step %d: foreign rules of %s are %q", step, family, fakes[family].content[foreign])
			}
		}
	}
	written := fakes[rules.IPv4].writes + fakes[rules.IPv6].writes
	pass(time.Minute)
	if again := fakes[rules.IPv4].writes + fakes[rules.IPv6].writes; again != written {
		t.Errorf("%d writes while nothing changed", again-written)
	}
}

// TestOneFamilyFails: what one family cannot have does not keep the other from its own.
func TestOneFamilyFails(t *testing.T) {
	svc, list := dual(0, 2)
	in := rules.Input{Node: rules.Node{Name: "here"}, Services: []*corev1.Service{svc}, Slices: list}
	changed := 0
	p, err := New(Options{State: func() rules.Input { return in }, Families: rules.Families(), Changed: func() { changed++ }})
	must(t, err)
	four, six := &fake{content: newContent()}, &fake{content: newContent(), broken: errBroken}
	p.keepers[0].kernel, p.keepers[1].kernel = four, six
	if err := p.Sync(t.Context()); !errors.Is(err, errBroken) {
		t.Errorf("got %v", err)
	}
	if found := compare(observeFake(four.content), rules.Compile(in, rules.IPv4).Chains, equal); len(found) > 0 {
		t.Errorf("IPv4 has %v", found)
	}
	six.broken, six.stale = nil, 3
	must(t, p.Sync(t.Context()))
	if found := compare(observeFake(six.content), rules.Compile(in, rules.IPv6).Chains, equal); len(found) > 0 || six.stale != 0 {
		t.Errorf("IPv6 has %v, %d stale flows", found, six.stale)
	}
	if changed != 3 { // both first attempts, and the second success
		t.Errorf("told %d times of a change", changed)
	}
}

// TestBothFamilies keeps both in one kernel: each has its rules, its address and its route, and is repaired by itself.
func TestBothFamilies(t *testing.T) {
	newLAN(t)
	svc, list := dual(0, 2)
	in := rules.Input{
		Node:            rules.Node{Name: "here", PodCIDRs: []netip.Prefix{prefix("10.42.0.0/24"), prefix("fd00:42::/64")}},
		PodNetworks:     []netip.Prefix{prefix("10.42.0.0/16"), prefix("fd00:42::/56")},
		ServiceNetworks: []netip.Prefix{prefix("10.43.0.0/16"), prefix("fd00:43::/112")},
		LocalServices:   []netip.Addr{netip.MustParseAddr("10.43.0.10"), netip.MustParseAddr("fd00:43::a")},
		Services:        []*corev1.Service{svc}, Slices: list, LocalhostPorts: true,
	}
	var drifts []Drift
	p, err := New(Options{
		State: func() rules.Input { return in }, Families: rules.Families(), Drift: func(d Drift) { drifts = append(drifts, d) },
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	must(t, err)
	must(t, p.Sync(t.Context()))
	look := func() {
		for _, k := range p.keepers {
			k.nextRead = time.Time{}
			k.tick(t.Context(), p.state)
		}
		must(t, p.Health())
	}
	look()
	if len(drifts) > 0 {
		t.Fatalf("drift without one: %v", drifts)
	}
	for _, want := range []string{"10.43.0.10/32", "fd00:43::a/128"} {
		if out := command(t, "ip", "addr", "show", "dev", LinkName); !strings.Contains(out, want) {
			t.Errorf("the link has no address %s:\n%s", want, out)
		}
	}
	if out := command(t, "ip", "-6", "route", "show", "dev", LinkName); !strings.Contains(out, "fd00:43::/112") {
		t.Errorf("the service network has no route:\n%s", out)
	}
	six := p.keepers[1].tables.(*backend)
	tool := strings.TrimSuffix(six.restoring, "-restore")
	command(t, tool, "-t", "nat", "-F", rules.Prefix+"SERVICES")
	look()
	if len(drifts) != 1 || drifts[0].Family != rules.IPv6 {
		t.Fatalf("got %v", drifts)
	}
	if out := command(t, six.saving, "-t", "nat"); !strings.Contains(out, "--to-destination [fd00:42::5]:8080") ||
		!strings.Contains(out, "-A LOCKSTEP-SERVICES ") {
		t.Errorf("IPv6 has\n%s", out)
	}
	must(t, Cleanup(t.Context()))
	for _, save := range []string{six.saving, p.keepers[0].tables.(*backend).saving} {
		if out := command(t, save); strings.Contains(out, rules.Prefix) {
			t.Errorf("left behind:\n%s", out)
		}
	}
}
