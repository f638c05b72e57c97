package names

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// many is a headless service with n endpoints.
func many(n int) Data {
	s := Service{Name: "many.shop", Headless: true}
	for i := range n {
		a := netip.AddrFrom4([4]byte{10, 42, byte(i / 200), byte(1 + i%200)})
		s.Hosts = append(s.Hosts, Host{Name: Dashed(a), Address: a})
	}
	return Data{Domain: "cluster.local", Services: []Service{s}, Namespaces: []string{"default", "shop"}, Known: true}
}

// running is a server with its upstream, both on free ports of the loopback link.
type running struct {
	*Server
	addr string
}

func start(t *testing.T, d Data, upstreams ...netip.AddrPort) *running {
	t.Helper()
	r := &running{Server: NewServer(Options{Upstreams: append([]netip.AddrPort{}, upstreams...)})}
	r.Set(d)
	var sockets *Sockets
	for err := errors.New("not tried"); err != nil; { // the port that is free for UDP may be taken for TCP
		sockets, err = Listen(t.Context(), []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")})
	}
	r.addr = sockets.Addresses[0].String()
	ctx, cancel := context.WithCancel(t.Context())
	done, started := make(chan error), make(chan struct{})
	go func() { done <- r.Run(ctx, sockets, func() { close(started) }) }()
	t.Cleanup(func() { cancel(); must(t, <-done) })
	<-started
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
	data := many(100)
	data.Services = append(data.Services, Service{Name: "outside.shop", External: "www.example.org"})
	r := start(t, data, upstream.addr)

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
			"class":           {func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeRefused},
			"transfer":        {func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR }, dns.RcodeRefused},
			"no recursion":    {func(m *dns.Msg) { m.RecursionDesired = false }, dns.RcodeRefused},
			"not a question":  {func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }, dns.RcodeNotImplemented},
			"several at once": {func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, dns.RcodeFormatError},
			"our name is no secret": {func(m *dns.Msg) { m.RecursionDesired = false; m.Question[0].Name = "svc.cluster.local." },
				dns.RcodeSuccess},
		} {
			if m := r.ask(t, "udp", "www.example.org.", dns.TypeA, test.change); m.Rcode != test.want {
				t.Errorf("%s: got %s", what, dns.RcodeToString[m.Rcode])
			}
		}
	})
	t.Run("a change is seen", func(t *testing.T) {
		r.Set(many(3))
		if m := r.ask(t, "udp", "many.shop.svc.cluster.local.", dns.TypeA); len(m.Answer) != 3 {
			t.Errorf("got %v", m)
		}
	})
	t.Run("answers are counted", func(t *testing.T) {
		var all, cut uint64
		stats := r.Stats()
		for _, c := range stats.Answers {
			all += c.Answers
			if c.Kind == (Kind{"tcp", "A", "NOERROR"}) {
				cut = c.Answers
			}
		}
		var seen uint64
		for _, n := range stats.Latency.Counts {
			seen += n
		}
		if all == 0 || seen != all || cut == 0 || stats.Latency.Sum <= 0 {
			t.Errorf("%+v", stats)
		}
	})
}

func TestNoUpstream(t *testing.T) {
	r := start(t, Data{Domain: "cluster.local"})
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
	r := start(t, Data{Domain: "cluster.local"}, upstream.addr)
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
	f := newForwarder(file, nil)
	f.avoid([]netip.AddrPort{own})
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
	f := newForwarder("", []netip.AddrPort{silent.addr})
	life, end := context.WithCancel(t.Context())
	var ended time.Time
	go func() {
		for silent.asked.Load() == 0 {
			time.Sleep(time.Millisecond)
		}
		ended = time.Now()
		end()
	}()
	_, err := f.ask(life, "192.0.2.7", dns.Question{Name: "www.example.org.", Qtype: dns.TypeA, Qclass: dns.ClassINET}, false, false)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("ask = %v, want that the server has ended", err)
	}
	for len(f.slots) > 0 && time.Since(ended) < forwardTimeout {
		time.Sleep(time.Millisecond)
	}
	if took := time.Since(ended); took >= upstreamTimeout {
		t.Errorf("the question went on for %s", took)
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
	packets, streams := samePort(t)
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

// samePort listens for both at one port: one that is free for the first may be another program's for the second.
func samePort(t *testing.T) (net.PacketConn, net.Listener) {
	t.Helper()
	for {
		packets, err := net.ListenPacket("udp", "127.0.0.1:0")
		must(t, err)
		streams, err := net.Listen("tcp", packets.LocalAddr().String())
		if err == nil {
			return packets, streams
		}
		must(t, packets.Close())
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatal(err)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestOthersAreAnswered: one client holds as many connections and questions without an answer as it can; others are
// answered all the same.
func TestOthersAreAnswered(t *testing.T) {
	silent := fakeUpstream(t, func(q dns.Question) (*dns.Msg, bool) {
		return &dns.Msg{Answer: []dns.RR{&dns.TXT{Hdr: header(q.Name, dns.TypeTXT), Txt: []string{"yes"}}}}, q.Name == "good.example.org."
	})
	r := start(t, many(3), silent.addr)
	hostile := &net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	for range 2 * connectionsMost {
		c, err := hostile.Dial("tcp", r.addr)
		if err != nil {
			continue
		}
		defer c.Close()
	}
	flood, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2)}}).Dial("udp", r.addr)
	must(t, err)
	defer flood.Close()
	for i := range 2 * forwardsMost {
		data, err := new(dns.Msg).SetQuestion(fmt.Sprintf("%d.example.org.", i), dns.TypeA).Pack()
		must(t, err)
		_, err = flood.Write(data)
		must(t, err)
	}
	time.Sleep(200 * time.Millisecond)
	for _, network := range []string{"udp", "tcp"} {
		if m := r.ask(t, network, "good.example.org.", dns.TypeTXT); m.Rcode != dns.RcodeSuccess || len(m.Answer) != 1 {
			t.Errorf("%s: %s, %d answers", network, dns.RcodeToString[m.Rcode], len(m.Answer))
		}
	}
}
