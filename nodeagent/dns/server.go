package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Options of a Server. Listen, Domain and State are required.
type Options struct {
	// Listen are the addresses to answer at, by UDP and TCP. They need not exist yet. Port 0 is a
	// free one, which Addresses tells.
	Listen []netip.AddrPort
	// Domain of the cluster, such as "cluster.local".
	Domain string
	// State returns the cluster's state as it is now, from one goroutine. Its zero value is a
	// cluster without services.
	State func() State
	// Wake says that State may return something else. It carries nothing; one pending wake-up is
	// enough. Nil: State is looked at once in refreshInterval.
	Wake <-chan struct{}
	// Upstreams are asked about names outside the cluster. Nil: those of ResolvConf.
	Upstreams []netip.AddrPort
	// ResolvConf is the node's own file. Empty: /etc/resolv.conf.
	ResolvConf string
	// Seed rotates addresses in answers. Nil: at random.
	Seed func() uint32
	// Log may be nil: then nothing is logged.
	Log *slog.Logger
	// Registerer may be nil: then metrics are not registered.
	Registerer prometheus.Registerer
}

func (o Options) validate() error {
	switch {
	case len(o.Listen) == 0:
		return errors.New("cannot make a DNS server: no address to listen on")
	case o.Domain == "":
		return errors.New("cannot make a DNS server: no domain")
	case o.State == nil:
		return errors.New("cannot make a DNS server: no State")
	}
	return nil
}

const (
	// refreshInterval is how old the names may be without a wake-up.
	refreshInterval = time.Second
	// listenRetry is the wait after an address was found in use: whoever has it is being stopped,
	// or stays.
	listenRetry = time.Second
	// settle is the least time between two indexings: one takes 20 ms for 10,000 services, and
	// endpoints change in bursts.
	settle = 50 * time.Millisecond
	// connectionsMost bounds the TCP connections of one address: each holds a goroutine and a
	// buffer. Clients use TCP for the few answers that do not fit a datagram.
	connectionsMost = 256
	// idle ends a TCP connection on which nothing is asked.
	idle = 8 * time.Second
)

// Server answers names on a node.
type Server struct {
	opts      Options
	log       *slog.Logger
	metrics   *metrics
	forward   *forwarder
	zone      atomic.Pointer[Zone]
	health    atomic.Pointer[error]
	listening chan struct{}
	addresses []netip.AddrPort // set before listening is closed
}

// New returns a Server that does nothing until Run.
func New(opts Options) (*Server, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	s := &Server{opts: opts, log: opts.Log, metrics: newMetrics(opts.Registerer), listening: make(chan struct{})}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.opts.Seed == nil {
		s.opts.Seed = rand.Uint32
	}
	if s.opts.ResolvConf == "" {
		s.opts.ResolvConf = "/etc/resolv.conf"
	}
	s.forward = newForwarder(s.opts.ResolvConf, opts.Upstreams, opts.Listen)
	s.zone.Store(NewZone(opts.Domain, State{}))
	return s, nil
}

// Health is nil unless the server cannot listen.
func (s *Server) Health() error {
	if err := s.health.Load(); err != nil {
		return *err
	}
	return nil
}

// Listening is closed when the server answers.
func (s *Server) Listening() <-chan struct{} { return s.listening }

// Addresses are those of Options.Listen with their real ports. It may be called after Listening is
// closed.
func (s *Server) Addresses() []netip.AddrPort { return s.addresses }

// Run answers until ctx ends, and then returns nil. While an address is in use by another program
// it is tried again, and Health says so. It may be called once.
func (s *Server) Run(ctx context.Context) error {
	// Questions under way are still answered when ctx has ended, but nothing of them outlives the server.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, request *dns.Msg) { s.serve(life, w, request) })
	servers, err := s.listen(ctx, handler)
	for ; err != nil; servers, err = s.listen(ctx, handler) {
		s.health.Store(&err)
		s.log.Error("cannot serve names", "error", err, "retry", listenRetry)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(listenRetry):
		}
	}
	s.health.Store(nil)
	s.zone.Store(NewZone(s.opts.Domain, s.opts.State()))
	var started sync.WaitGroup
	group, ctx := errgroup.WithContext(ctx)
	for _, server := range servers {
		started.Add(1)
		server.NotifyStartedFunc = started.Done
		group.Go(func() error {
			if err := server.ActivateAndServe(); err != nil && ctx.Err() == nil {
				return fmt.Errorf("cannot serve DNS: %w", err)
			}
			return nil
		})
	}
	group.Go(func() error {
		started.Wait()
		close(s.listening)
		s.log.Info("DNS server listening", "addresses", s.addresses)
		s.refresh(ctx)
		// Questions under way end by themselves within forwardTimeout.
		shut, cancel := context.WithTimeout(context.WithoutCancel(ctx), forwardTimeout+time.Second)
		defer cancel()
		for _, server := range servers {
			if err := server.ShutdownContext(shut); err != nil {
				s.log.Debug("DNS server closed with questions under way", "error", err)
			}
		}
		return nil
	})
	return group.Wait()
}

// refresh keeps the zone what State says until ctx ends.
func (s *Server) refresh(ctx context.Context) {
	ticker := time.NewTicker(refreshInterval)
	defer ticker.Stop()
	if s.opts.Wake != nil {
		ticker.Stop()
	}
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-s.opts.Wake:
		}
		start := time.Now()
		s.zone.Store(NewZone(s.opts.Domain, s.opts.State()))
		s.metrics.index.Observe(time.Since(start).Seconds())
		pause.Reset(settle)
	}
}

// listen opens a datagram and a stream socket for each address.
func (s *Server) listen(ctx context.Context, handler dns.Handler) (servers []*dns.Server, err error) {
	defer func() {
		if err != nil {
			for _, server := range servers {
				closeSockets(server)
			}
			s.addresses = nil
		}
	}()
	config := net.ListenConfig{Control: freebind}
	for _, a := range s.opts.Listen {
		packets, err := config.ListenPacket(ctx, "udp", a.String())
		if err != nil {
			return servers, fmt.Errorf("cannot listen: %w", err)
		}
		udp := &dns.Server{PacketConn: packets, UDPSize: dns.DefaultMsgSize, Handler: handler}
		servers = append(servers, udp)
		a = packets.LocalAddr().(*net.UDPAddr).AddrPort()
		streams, err := config.Listen(ctx, "tcp", a.String())
		if err != nil {
			return servers, fmt.Errorf("cannot listen: %w", err)
		}
		servers = append(servers, &dns.Server{
			Listener: &bounded{Listener: streams, slots: make(chan struct{}, connectionsMost)},
			Handler:  handler, IdleTimeout: func() time.Duration { return idle },
		})
		s.addresses = append(s.addresses, a)
	}
	return servers, nil
}

func closeSockets(server *dns.Server) {
	if server.PacketConn != nil {
		server.PacketConn.Close()
	}
	if server.Listener != nil {
		server.Listener.Close()
	}
}

// freebind lets a socket be bound to an address that comes later: the service link may be made
// after the server has started, and made again.
func freebind(_, _ string, conn syscall.RawConn) error {
	var err error
	if control := conn.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
	}); control != nil {
		return control
	}
	return err
}

// serve answers one message.
func (s *Server) serve(ctx context.Context, w dns.ResponseWriter, request *dns.Msg) {
	start := time.Now()
	_, stream := w.RemoteAddr().(*net.TCPAddr)
	response := s.respond(ctx, request)
	fit(response, request, stream)
	if err := w.WriteMsg(response); err != nil {
		s.log.Debug("cannot write a DNS answer", "error", err)
	}
	kind := "other"
	if len(request.Question) == 1 {
		if t := request.Question[0].Qtype; slices.Contains([]uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypePTR, dns.TypeCNAME, dns.TypeTXT, dns.TypeMX, dns.TypeSOA, dns.TypeNS}, t) {
			kind = dns.TypeToString[t]
		}
	}
	protocol := "udp"
	if stream {
		protocol = "tcp"
	}
	rcode, ok := dns.RcodeToString[response.Rcode]
	if !ok {
		rcode = strconv.Itoa(response.Rcode)
	}
	s.metrics.answers.WithLabelValues(protocol, kind, rcode).Inc()
	s.metrics.latency.Observe(time.Since(start).Seconds())
}

// respond makes the whole response, however long.
func (s *Server) respond(ctx context.Context, request *dns.Msg) *dns.Msg {
	response := new(dns.Msg).SetReply(request)
	response.RecursionAvailable = true
	opt := request.IsEdns0()
	switch {
	case request.Opcode != dns.OpcodeQuery:
		response.Rcode = dns.RcodeNotImplemented
		return response
	case len(request.Question) != 1:
		response.Rcode = dns.RcodeFormatError
		return response
	case opt != nil && opt.Version() != 0:
		response.Rcode = dns.RcodeBadVers
		return response
	}
	q := request.Question[0]
	if q.Qclass != dns.ClassINET || q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR {
		response.Rcode = dns.RcodeRefused
		return response
	}
	answer := s.zone.Load().Answer(q, s.opts.Seed())
	if !answer.Ours {
		s.fill(ctx, response, request, q)
		return response
	}
	response.Authoritative = true
	response.Rcode = answer.Rcode
	response.Answer, response.Extra = answer.Records, answer.Extra
	if answer.SOA != nil {
		response.Ns = []dns.RR{answer.SOA}
	}
	if answer.Follow != "" {
		s.fill(ctx, response, request, dns.Question{Name: answer.Follow, Qtype: q.Qtype, Qclass: q.Qclass})
	}
	return response
}

// fill adds what the upstream says.
func (s *Server) fill(ctx context.Context, response, request *dns.Msg, q dns.Question) {
	if !request.RecursionDesired {
		if len(response.Answer) == 0 {
			response.Rcode = dns.RcodeRefused
		}
		return
	}
	opt := request.IsEdns0()
	start := time.Now()
	upstream, err := s.forward.ask(ctx, q, opt != nil && opt.Do(), request.CheckingDisabled)
	s.metrics.forwardLatency.Observe(time.Since(start).Seconds())
	if err != nil {
		response.Rcode = dns.RcodeServerFailure
		s.metrics.forwardErrors.Inc()
		s.log.Debug("cannot forward a question", "type", dns.TypeToString[q.Qtype], "error", err)
		return
	}
	response.Rcode = upstream.Rcode
	response.AuthenticatedData = upstream.AuthenticatedData && len(response.Answer) == 0
	for _, rr := range upstream.Answer {
		if h := rr.Header(); dns.CanonicalName(h.Name) == dns.CanonicalName(q.Name) {
			h.Name = q.Name // as the client spelled it
		}
		response.Answer = append(response.Answer, rr)
	}
	response.Ns = append(response.Ns, upstream.Ns...)
	for _, rr := range upstream.Extra {
		if rr.Header().Rrtype != dns.TypeOPT {
			response.Extra = append(response.Extra, rr)
		}
	}
}

// fit adds EDNS to the response if the request has it (RFC 6891), and cuts it to what the client
// takes: the rest is then to be had by TCP.
func fit(response, request *dns.Msg, stream bool) {
	size := dns.MinMsgSize
	if opt := request.IsEdns0(); opt != nil {
		response.SetEdns0(payload, opt.Do())
		size = min(max(size, int(opt.UDPSize())), payload)
	}
	if stream {
		size = dns.MaxMsgSize
	}
	response.Compress = true
	response.Truncate(size)
}

// bounded is a listener with a limit of open connections; more are closed at once.
type bounded struct {
	net.Listener
	slots chan struct{}
}

func (b *bounded) Accept() (net.Conn, error) {
	for {
		conn, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case b.slots <- struct{}{}:
			return &releasing{Conn: conn, slots: b.slots}, nil
		default:
			conn.Close()
		}
	}
}

// releasing is a connection that gives its slot back once.
type releasing struct {
	net.Conn
	once  sync.Once
	slots chan struct{}
}

func (r *releasing) Close() error {
	r.once.Do(func() { <-r.slots })
	return r.Conn.Close()
}
