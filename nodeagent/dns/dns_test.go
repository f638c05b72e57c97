package dns

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rogpeppe/go-internal/txtar"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the golden files")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestAnswer compares what a zone says to each question; the answer's lines are indented under it.
func TestAnswer(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	must(t, err)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			must(t, err)
			z := NewZone("Cluster.Local.", readState(t, string(a.Files[0].Data)))
			var b strings.Builder
			for line := range strings.Lines(string(a.Files[1].Data)) {
				if strings.HasPrefix(line, " ") {
					continue
				}
				kind, name, _ := strings.Cut(strings.TrimSpace(line), " ")
				b.WriteString(line)
				describe(&b, z.Answer(dns.Question{Name: name, Qtype: dns.StringToType[kind], Qclass: dns.ClassINET}, 0))
			}
			if *update {
				a.Files[1].Data = []byte(b.String())
				must(t, os.WriteFile(file, txtar.Format(a), 0o644))
			}
			if d := gocmp.Diff(string(a.Files[1].Data), b.String()); d != "" {
				t.Error(d)
			}
		})
	}
}

func describe(b *strings.Builder, a Answer) {
	if !a.Ours {
		b.WriteString("  upstream\n")
		return
	}
	fmt.Fprintf(b, "  %s\n", dns.RcodeToString[a.Rcode])
	for _, list := range []struct {
		name    string
		records []dns.RR
	}{{"", a.Records}, {"extra: ", a.Extra}} {
		for _, rr := range list.records {
			fmt.Fprintf(b, "  %s%s\n", list.name, strings.Join(strings.Fields(rr.String()), " "))
		}
	}
	if a.SOA != nil {
		b.WriteString("  with SOA\n")
	}
	if a.Follow != "" {
		fmt.Fprintf(b, "  upstream for %s\n", a.Follow)
	}
}

func readState(t *testing.T, text string) State {
	t.Helper()
	s := State{Namespaces: []string{"shop", "default"}, Networks: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16"), netip.MustParsePrefix("10.42.0.0/16")}}
	for doc := range strings.SplitSeq(text, "---\n") {
		if strings.HasPrefix(doc, "kind: Service\n") {
			o := &corev1.Service{}
			must(t, yaml.UnmarshalStrict([]byte(doc), o))
			s.Services = append(s.Services, o)
		} else {
			o := &discoveryv1.EndpointSlice{}
			must(t, yaml.UnmarshalStrict([]byte(doc), o))
			s.Slices = append(s.Slices, o)
		}
	}
	return s
}

// many is a headless service with n endpoints.
func many(n int) State {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "many"}, Spec: corev1.ServiceSpec{ClusterIP: "None"}}
	s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "many-1", Labels: map[string]string{discoveryv1.LabelServiceName: "many"}}}
	for i := range n {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.42.%d.%d", i/200, 1+i%200)}})
	}
	return State{Services: []*corev1.Service{svc}, Slices: []*discoveryv1.EndpointSlice{s}}
}

func TestRotation(t *testing.T) {
	z := NewZone("cluster.local", many(4))
	first := map[string]int{}
	for seed := range uint32(8) {
		a := z.Answer(dns.Question{Name: "many.shop.svc.cluster.local.", Qtype: dns.TypeA, Qclass: dns.ClassINET}, seed)
		if len(a.Records) != 4 {
			t.Fatalf("%d records", len(a.Records))
		}
		first[a.Records[0].(*dns.A).A.String()]++
	}
	if len(first) != 4 {
		t.Fatalf("first addresses: %v", first)
	}
}

// running is a server with its upstream, both on free ports of the loopback link.
type running struct {
	*Server
	addr  string
	state atomic.Pointer[State]
	wake  chan struct{}
}

func start(t *testing.T, s State, upstreams ...netip.AddrPort) *running {
	t.Helper()
	r := &running{wake: make(chan struct{}, 1)}
	r.state.Store(&s)
	server, err := New(Options{
		Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, Domain: "cluster.local",
		State: func() State { return *r.state.Load() }, Wake: r.wake,
		Upstreams: append([]netip.AddrPort{}, upstreams...), Registerer: prometheus.NewRegistry(),
	})
	must(t, err)
	r.Server = server
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() { cancel(); must(t, <-done) })
	select {
	case <-server.Listening():
	case err := <-done:
		t.Fatal(err)
	}
	r.addr = server.Addresses()[0].String()
	return r
}

func (r *running) ask(t *testing.T, network, name string, kind uint16, change ...func(*dns.Msg)) *dns.Msg {
	t.Helper()
	m := new(dns.Msg).SetQuestion(name, kind)
	for _, f := range change {
		f(m)
	}
	client := &dns.Client{Net: network, Timeout: 6 * time.Second, UDPSize: 4096}
	answer, _, err := client.Exchange(m, r.addr)
	must(t, err)
	answer.Compress = true // so that Len is what was sent
	return answer
}

func TestServer(t *testing.T) {
	upstream := fakeUpstream(t, func(q dns.Question) (*dns.Msg, bool) {
		m := new(dns.Msg)
		switch q.Name {
		case "www.example.org.":
			m.Answer = []dns.RR{addressRecord(q.Name, netip.MustParseAddr("192.0.2.7"))}
		case "long.example.org.":
			for i := range 200 {
				m.Answer = append(m.Answer, addressRecord(q.Name, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})))
			}
		case "slow.example.org.":
			return nil, false
		default:
			m.Rcode = dns.RcodeNameError
		}
		return m, true
	})
	state := many(100)
	state.Services = append(state.Services, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "outside"},
		Spec:       corev1.ServiceSpec{Type: "ExternalName", ExternalName: "www.example.org"},
	})
	r := start(t, state, upstream.addr)

	t.Run("an answer that does not fit is cut, and whole by TCP", func(t *testing.T) {
		cut := r.ask(t, "udp", "many.shop.svc.cluster.local.", dns.TypeA)
		if !cut.Truncated || cut.Len() > dns.MinMsgSize {
			t.Errorf("truncated %t, %d bytes", cut.Truncated, cut.Len())
		}
		whole := r.ask(t, "tcp", "many.shop.svc.cluster.local.", dns.TypeA)
		if whole.Truncated || len(whole.Answer) != 100 || !whole.Authoritative {
			t.Errorf("truncated %t, %d records", whole.Truncated, len(whole.Answer))
		}
	})
	t.Run("EDNS allows more, up to what is safe", func(t *testing.T) {
		m := r.ask(t, "udp", "many.shop.svc.cluster.local.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(4096, false) })
		if m.Len() <= dns.MinMsgSize || m.Len() > payload || m.IsEdns0() == nil {
			t.Errorf("%d bytes, EDNS %v", m.Len(), m.IsEdns0())
		}
		m = r.ask(t, "udp", "x.cluster.local.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(4096, false); m.IsEdns0().SetVersion(1) })
		if m.Rcode != dns.RcodeBadVers {
			t.Errorf("got %s", dns.RcodeToString[m.Rcode])
		}
	})
	t.Run("names keep their spelling", func(t *testing.T) {
		const spelled = "wWw.ExAmPlE.oRg."
		m := r.ask(t, "udp", spelled, dns.TypeA)
		if m.Question[0].Name != spelled || len(m.Answer) != 1 || m.Answer[0].Header().Name != spelled {
			t.Errorf("got %v", m)
		}
	})
	t.Run("an alias is followed upstream", func(t *testing.T) {
		m := r.ask(t, "udp", "outside.shop.svc.cluster.local.", dns.TypeA)
		if len(m.Answer) != 2 || m.Answer[0].Header().Rrtype != dns.TypeCNAME || m.Answer[1].Header().Rrtype != dns.TypeA {
			t.Errorf("got %v", m)
		}
	})
	t.Run("upstream answers are complete and remembered", func(t *testing.T) {
		before := upstream.asked.Load()
		for range 3 {
			if m := r.ask(t, "tcp", "long.example.org.", dns.TypeA); len(m.Answer) != 200 {
				t.Fatalf("%d records", len(m.Answer))
			}
		}
		if n := upstream.asked.Load() - before; n != 2 { // by UDP, then by TCP
			t.Errorf("the upstream was asked %d times", n)
		}
		if m := r.ask(t, "udp", "none.example.org.", dns.TypeA); m.Rcode != dns.RcodeNameError {
			t.Errorf("got %s", dns.RcodeToString[m.Rcode])
		}
	})
	t.Run("an upstream that does not answer", func(t *testing.T) {
		m := r.ask(t, "udp", "slow.example.org.", dns.TypeA)
		if m.Rcode != dns.RcodeServerFailure {
			t.Errorf("got %s", dns.RcodeToString[m.Rcode])
		}
	})
	t.Run("refusals", func(t *testing.T) {
		for what, test := range map[string]struct {
			change func(*dns.Msg)
			want   int
		}{
			"class":                 {func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeRefused},
			"transfer":              {func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR }, dns.RcodeRefused},
			"no recursion":          {func(m *dns.Msg) { m.RecursionDesired = false }, dns.RcodeRefused},
			"not a question":        {func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }, dns.RcodeNotImplemented},
			"several at once":       {func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, dns.RcodeFormatError},
			"our name is no secret": {func(m *dns.Msg) { m.RecursionDesired = false; m.Question[0].Name = "svc.cluster.local." }, dns.RcodeSuccess},
		} {
			if m := r.ask(t, "udp", "www.example.org.", dns.TypeA, test.change); m.Rcode != test.want {
				t.Errorf("%s: got %s", what, dns.RcodeToString[m.Rcode])
			}
		}
	})
	t.Run("a change is seen", func(t *testing.T) {
		next := many(3)
		r.state.Store(&next)
		r.wake <- struct{}{}
		for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			if m := r.ask(t, "udp", "many.shop.svc.cluster.local.", dns.TypeA); len(m.Answer) == 3 {
				break
			}
			if time.Now().After(end) {
				t.Fatal("the old state is still answered")
			}
		}
	})
}

func TestNoUpstream(t *testing.T) {
	r := start(t, State{})
	if m := r.ask(t, "udp", "www.example.org.", dns.TypeA); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("got %s", dns.RcodeToString[m.Rcode])
	}
	if m := r.ask(t, "udp", "x.y.svc.cluster.local.", dns.TypeA); m.Rcode != dns.RcodeNameError {
		t.Errorf("got %s", dns.RcodeToString[m.Rcode])
	}
}

// TestLoop has the upstream ask the server itself: the question must end, not multiply.
func TestLoop(t *testing.T) {
	var back atomic.Pointer[string]
	var asked atomic.Int32
	upstream := fakeUpstream(t, func(q dns.Question) (*dns.Msg, bool) {
		asked.Add(1)
		client := &dns.Client{Timeout: 2 * time.Second}
		m, _, err := client.Exchange(new(dns.Msg).SetQuestion(q.Name, q.Qtype), *back.Load())
		return m, err == nil
	})
	r := start(t, State{}, upstream.addr)
	back.Store(&r.addr)
	if m := r.ask(t, "udp", "www.example.org.", dns.TypeA); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("got %s", dns.RcodeToString[m.Rcode])
	}
	if n := asked.Load(); n > 3 {
		t.Errorf("one question became %d", n)
	}
}

func TestForwarder(t *testing.T) {
	own := netip.MustParseAddrPort("10.43.0.10:53")
	file := filepath.Join(t.TempDir(), "resolv.conf")
	must(t, os.WriteFile(file, []byte("nameserver 10.43.0.10\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n"), 0o644))
	f := newForwarder(file, nil, []netip.AddrPort{own})
	now := time.Unix(1000, 0)
	f.now = func() time.Time { return now }
	if got := fmt.Sprint(f.upstreams()); got != "[192.0.2.1:53 192.0.2.2:53]" {
		t.Errorf("got %s", got)
	}
	must(t, os.WriteFile(file, []byte("nameserver 192.0.2.3\n"), 0o644))
	now = now.Add(resolvInterval + time.Second)
	if got := fmt.Sprint(f.upstreams()); got != "[192.0.2.3:53]" {
		t.Errorf("got %s", got)
	}

	m := &dns.Msg{Answer: []dns.RR{addressRecord("x.", netip.MustParseAddr("192.0.2.9"))}}
	f.remember("key", m)
	now = now.Add((ttl - 1) * time.Second)
	if got := f.recall("key"); got == nil || got.Answer[0].Header().Ttl != 1 {
		t.Errorf("got %v", got)
	}
	now = now.Add(time.Second)
	if got := f.recall("key"); got != nil {
		t.Errorf("got %v after its time", got)
	}
	for i := range cacheMost + 10 {
		f.remember(fmt.Sprint(i), m)
	}
	if n := len(f.cache); n > cacheMost {
		t.Errorf("%d answers are remembered", n)
	}
}

// TestForwarderEnds has the server end while its upstream is silent.
func TestForwarderEnds(t *testing.T) {
	silent := fakeUpstream(t, func(dns.Question) (*dns.Msg, bool) { return nil, false })
	f := newForwarder("", []netip.AddrPort{silent.addr}, nil)
	life, end := context.WithCancel(t.Context())
	var ended time.Time
	go func() {
		for silent.asked.Load() == 0 {
			time.Sleep(time.Millisecond)
		}
		ended = time.Now()
		end()
	}()
	if _, err := f.ask(life, dns.Question{Name: "www.example.org.", Qtype: dns.TypeA, Qclass: dns.ClassINET}, false, false); !errors.Is(err, context.Canceled) {
		t.Errorf("ask = %v, want that the server has ended", err)
	}
	for len(f.slots) > 0 && time.Since(ended) < forwardTimeout {
		time.Sleep(time.Millisecond)
	}
	if took := time.Since(ended); took >= upstreamTimeout {
		t.Errorf("the question went on for %s", took)
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{{}, {Listen: make([]netip.AddrPort, 1)}, {Listen: make([]netip.AddrPort, 1), Domain: "x"}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s, err := New(Options{Listen: []netip.AddrPort{netip.MustParseAddrPort(taken.Addr().String())}, Domain: "x", State: func() State { return State{} }})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	for s.Health() == nil {
		time.Sleep(time.Millisecond)
	}
	taken.Close()
	<-s.Listening()
	if err := s.Health(); err != nil {
		t.Error(err)
	}
	cancel()
	must(t, <-done)
}

func TestResolvConf(t *testing.T) {
	const host = "# written by hand\nnameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch example.org. corp.example.org\noptions timeout:1 rotate\n"
	clusterDNS := []netip.Addr{netip.MustParseAddr("10.43.0.10")}
	two := "2"
	config := &corev1.PodDNSConfig{
		Nameservers: []string{"192.0.2.1", "192.0.2.9"}, Searches: []string{"more.example.org"},
		Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: &two}, {Name: "edns0"}},
	}
	const first = "search shop.svc.cluster.local svc.cluster.local cluster.local example.org corp.example.org\nnameserver 10.43.0.10\noptions ndots:5\n"
	const hosts = "search example.org corp.example.org\nnameserver 192.0.2.1\nnameserver 192.0.2.2\noptions timeout:1 rotate\n"
	tests := []struct {
		what string
		spec corev1.PodSpec
		want string
	}{
		{"no policy", corev1.PodSpec{}, first},
		{"ClusterFirst", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst}, first},
		{"ClusterFirst in the node's network", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst, HostNetwork: true}, hosts},
		{"ClusterFirstWithHostNet", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirstWithHostNet, HostNetwork: true}, first},
		{"Default", corev1.PodSpec{DNSPolicy: corev1.DNSDefault}, hosts},
		{"None", corev1.PodSpec{DNSPolicy: corev1.DNSNone, DNSConfig: config}, "search more.example.org\nnameserver 192.0.2.1\nnameserver 192.0.2.9\noptions ndots:2 edns0\n"},
		{"Default with more", corev1.PodSpec{DNSPolicy: corev1.DNSDefault, DNSConfig: config}, "search example.org corp.example.org more.example.org\nnameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.9\noptions timeout:1 rotate ndots:2 edns0\n"},
		{"ClusterFirst with more", corev1.PodSpec{DNSConfig: config}, "search shop.svc.cluster.local svc.cluster.local cluster.local example.org corp.example.org more.example.org\nnameserver 10.43.0.10\nnameserver 192.0.2.1\nnameserver 192.0.2.9\noptions ndots:2 edns0\n"},
	}
	for _, test := range tests {
		t.Run(test.what, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "a"}, Spec: test.spec}
			for range 2 { // the second time shows that the first changed nothing
				if d := gocmp.Diff(test.want, ResolvConf(pod, clusterDNS, "cluster.local", host)); d != "" {
					t.Error(d)
				}
			}
		})
	}
}

type upstream struct {
	addr  netip.AddrPort
	asked atomic.Int32
}

// fakeUpstream answers by UDP and TCP what answer says, or nothing.
func fakeUpstream(t *testing.T, answer func(dns.Question) (*dns.Msg, bool)) *upstream {
	t.Helper()
	u := &upstream{}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, request *dns.Msg) {
		u.asked.Add(1)
		m, ok := answer(request.Question[0])
		if !ok {
			return
		}
		reply := new(dns.Msg).SetRcode(request, m.Rcode)
		reply.Answer = slices.Clone(m.Answer)
		_, stream := w.RemoteAddr().(*net.TCPAddr)
		fit(reply, request, stream)
		w.WriteMsg(reply)
	})
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	streams, err := net.Listen("tcp", packets.LocalAddr().String())
	must(t, err)
	u.addr = netip.MustParseAddrPort(packets.LocalAddr().String())
	for _, s := range []*dns.Server{{PacketConn: packets, Handler: handler}, {Listener: streams, Handler: handler}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		done := make(chan error)
		go func() { done <- s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { s.Shutdown(); <-done })
	}
	return u
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
