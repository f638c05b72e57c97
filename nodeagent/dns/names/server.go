package names

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"

	"lockstep/internal/quota"
)

// Options of a Server; none is required.
type Options struct {
	// Upstreams are asked about names outside the cluster. Nil: those of ResolvConf.
	Upstreams []netip.AddrPort
	// ResolvConf is the node's own file. Empty: /etc/resolv.conf.
	ResolvConf string
	// Seed rotates addresses in answers. Nil: at random.
	Seed func() uint32
	// Log may be nil: then nothing is logged.
	Log *slog.Logger
}

const (
	// idle ends a TCP connection on which nothing is asked.
	idle = 8 * time.Second
	// lastQuestions is how long connections that were accepted may still bring questions when the server ends; the next
	// ones are its successor's.
	lastQuestions = time.Second
	// questionsPerSecond and questionsAtOnce bound what one client asks: several times what a busy pod does, of whom a
	// thousand questions a second are expected, and some tenths of a processor. Beyond it the answer is REFUSED.
	questionsPerSecond, questionsAtOnce = 10_000, 20_000
	// recordsPerQuestion is how many records are as much work as a question: an answer of a thousand counts as fifty.
	recordsPerQuestion = 20
	// answersMost bounds the questions of one client that are being answered: each is a goroutine, and those that wait for
	// an upstream server are a quarter of it. Beyond it there is no answer: one who has so many open reads none.
	answersMost = 4 * forwardsMost / share
)

// Server answers names at sockets.
type Server struct {
	seed    func() uint32
	log     *slog.Logger
	stats   stats
	asked   *quota.Rate
	inside  *quota.Gate
	forward *forwarder
	zone    atomic.Pointer[Zone]
}

// NewServer returns a server of an empty cluster that does nothing until Run.
func NewServer(opts Options) *Server {
	s := &Server{
		seed:   opts.Seed,
		log:    opts.Log,
		asked:  quota.NewRate(questionsPerSecond, questionsAtOnce),
		inside: quota.NewGate(answersMost),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.seed == nil {
		s.seed = rand.Uint32
	}
	if opts.ResolvConf == "" {
		opts.ResolvConf = "/etc/resolv.conf"
	}
	s.forward = newForwarder(opts.ResolvConf, opts.Upstreams)
	s.zone.Store(NewZone(Data{}))
	return s
}

// Set has later questions answered from data, which it keeps. Any number of goroutines may call it.
func (s *Server) Set(d Data) {
	start := time.Now()
	s.zone.Store(NewZone(d))
	s.stats.index.observe(time.Since(start))
}

// Stats are what was counted since the process began.
func (s *Server) Stats() Stats { return s.stats.read() }

// Run answers at the sockets, which are its own from now on, until ctx ends; then it returns nil, when questions under way
// have been answered. started is called once questions are answered; it may be nil.
func (s *Server) Run(ctx context.Context, at *Sockets, started func()) error {
	// Questions under way are still answered when ctx has ended, but nothing of them outlives Run.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	s.forward.avoid(at.Addresses)
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, request *dns.Msg) { s.serve(life, w, request) })
	var servers []*dns.Server
	var listeners []*bounded
	for _, p := range at.packets {
		servers = append(servers, &dns.Server{PacketConn: p, UDPSize: dns.DefaultMsgSize, Handler: handler})
	}
	for _, l := range at.streams {
		b := &bounded{Listener: l, slots: make(chan struct{}, connectionsMost), clients: quota.NewGate(connectionsMost / share),
			ended: make(chan struct{})}
		listeners = append(listeners, b)
		servers = append(servers, &dns.Server{Listener: b, Handler: handler, IdleTimeout: func() time.Duration { return idle }})
	}
	var ready sync.WaitGroup
	group, ctx := errgroup.WithContext(ctx)
	for _, server := range servers {
		ready.Add(1)
		server.NotifyStartedFunc = ready.Done
		group.Go(func() error {
			if err := server.ActivateAndServe(); err != nil && ctx.Err() == nil {
				return fmt.Errorf("cannot serve names: %w", err)
			}
			return nil
		})
	}
	group.Go(func() error {
		ready.Wait()
		if started != nil {
			started()
		}
		<-ctx.Done()
		last, give := context.WithTimeout(context.WithoutCancel(ctx), lastQuestions)
		defer give()
		for _, l := range listeners {
			l.Close()
			select { // one that has just been accepted may not be counted yet
			case <-l.ended:
			case <-last.Done():
			}
		}
		for slices.ContainsFunc(listeners, (*bounded).busy) && last.Err() == nil {
			time.Sleep(time.Millisecond)
		}
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

// serve answers one message.
func (s *Server) serve(ctx context.Context, w dns.ResponseWriter, request *dns.Msg) {
	start := time.Now()
	_, stream := w.RemoteAddr().(*net.TCPAddr)
	client := quota.Peer(w.RemoteAddr().String())
	leave := s.inside.Enter(client)
	if leave == nil {
		return
	}
	defer leave()
	response := new(dns.Msg).SetRcode(request, dns.RcodeRefused)
	if s.asked.Allow(client, 1, start) {
		response = s.respond(ctx, client, request)
		s.asked.Spend(client, float64(len(response.Answer)+len(response.Extra))/recordsPerQuestion, start)
	}
	fit(response, request, stream)
	if err := w.WriteMsg(response); err != nil {
		s.log.Debug("cannot write a DNS answer", "error", err)
	}
	kind := "other"
	if len(request.Question) == 1 {
		t := request.Question[0].Qtype
		switch t {
		case dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypePTR, dns.TypeCNAME, dns.TypeTXT, dns.TypeMX, dns.TypeSOA, dns.TypeNS:
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
	s.stats.answered(Kind{protocol, kind, rcode}, time.Since(start))
}

// respond makes the whole response, however long.
func (s *Server) respond(ctx context.Context, client string, request *dns.Msg) *dns.Msg {
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
	answer := s.zone.Load().Answer(q, s.seed())
	if !answer.Ours {
		s.fill(ctx, client, response, request, q)
		return response
	}
	response.Authoritative = true
	response.Rcode = answer.Rcode
	response.Answer, response.Extra = answer.Records, answer.Extra
	if answer.SOA != nil {
		response.Ns = []dns.RR{answer.SOA}
	}
	if answer.Follow != "" {
		s.fill(ctx, client, response, request, dns.Question{Name: answer.Follow, Qtype: q.Qtype, Qclass: q.Qclass})
	}
	return response
}

// fill adds what the upstream says.
func (s *Server) fill(ctx context.Context, client string, response, request *dns.Msg, q dns.Question) {
	if !request.RecursionDesired {
		if len(response.Answer) == 0 {
			response.Rcode = dns.RcodeRefused
		}
		return
	}
	opt := request.IsEdns0()
	start := time.Now()
	upstream, err := s.forward.ask(ctx, client, q, opt != nil && opt.Do(), request.CheckingDisabled)
	s.stats.forward.observe(time.Since(start))
	if err != nil {
		response.Rcode = dns.RcodeServerFailure
		s.stats.forwardErrors.Add(1)
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
	// What is more than fits in any case costs nothing to cut here.
	most := size/leastRecord + 1
	response.Answer = response.Answer[:min(len(response.Answer), most)]
	if opt := len(response.Extra) - 1; opt > most { // EDNS is the last
		response.Extra = append(response.Extra[:most], response.Extra[opt])
	}
	response.Compress = true
	response.Truncate(size)
}
