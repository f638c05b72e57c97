package names

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/singleflight"

	"lockstep/internal/quota"
)

const (
	// upstreamTimeout is for one try at one server; forwardTimeout for a question with all its
	// tries, below the 5 s after which resolvers ask again.
	upstreamTimeout = 1500 * time.Millisecond
	forwardTimeout  = 4500 * time.Millisecond
	// forwardsMost bounds the questions under way: each holds a socket. Beyond it the answer is
	// SERVFAIL at once, so that clients do not wait for nothing.
	forwardsMost = 256
	// share is the part of the questions under way, and of the connections, that one client may have: a pod that asks what
	// nobody answers leaves names to the others.
	share = 4
	// resolvInterval is how old the list of upstream servers may be.
	resolvInterval = 5 * time.Second
	// cacheMost bounds the remembered answers: 1 KiB each is 4 MiB. cacheTTL bounds their age, for
	// people who change a record wait for it.
	cacheMost = 4096
	cacheTTL  = 30 * time.Second
	// payload is what fits a datagram everywhere without fragments (https://www.dnsflagday.net/2020/).
	payload = 1232
)

var (
	errNoUpstream = errors.New("no upstream server")
	errBusy       = errors.New("too many questions under way")
)

// forwarder asks the node's own servers. Questions that are equal share one answer; therefore a
// forwarding loop, in which a question comes back to this node while it is under way, waits for
// itself and ends by its timeout instead of growing.
type forwarder struct {
	resolvConf string
	fixed      []netip.AddrPort // used instead of resolvConf if not nil
	now        func() time.Time
	flights    singleflight.Group
	slots      chan struct{}
	clients    *quota.Gate

	mu      sync.Mutex
	own     []netip.AddrPort // never asked
	servers []netip.AddrPort
	read    time.Time
	cache   map[string]remembered
}

type remembered struct {
	msg     *dns.Msg
	stored  time.Time
	expires time.Time
}

func newForwarder(resolvConf string, fixed []netip.AddrPort) *forwarder {
	return &forwarder{
		resolvConf: resolvConf, fixed: fixed, now: time.Now,
		slots: make(chan struct{}, forwardsMost), clients: quota.NewGate(forwardsMost / share), cache: map[string]remembered{},
	}
}

// avoid has addresses never asked: they are this server.
func (f *forwarder) avoid(own []netip.AddrPort) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.own = own
}

// ask returns the upstream's answer, which the caller owns. client is who asks. dnssec says that the client wants
// DNSSEC records, disabled that it checks them itself. life is the server's, not that of one
// question: those that are equal share its end.
func (f *forwarder) ask(life context.Context, client string, q dns.Question, dnssec, disabled bool) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(life, forwardTimeout)
	defer cancel()
	q.Name = dns.CanonicalName(q.Name)
	key := fmt.Sprintf("%s %d %d %t %t", q.Name, q.Qtype, q.Qclass, dnssec, disabled)
	if m := f.recall(key); m != nil {
		return m, nil
	}
	leave := f.clients.Enter(client)
	if leave == nil {
		return nil, errBusy
	}
	defer leave()
	result := f.flights.DoChan(key, func() (any, error) {
		select {
		case f.slots <- struct{}{}:
			defer func() { <-f.slots }()
		default:
			return nil, errBusy
		}
		// Its own time: who asked first gives up before those who asked later.
		ctx, cancel := context.WithTimeout(life, forwardTimeout)
		defer cancel()
		m, err := f.exchange(ctx, q, dnssec, disabled)
		if err == nil {
			f.remember(key, m)
		}
		return m, err
	})
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case r := <-result:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*dns.Msg).Copy(), nil
	}
}

// exchange tries the servers in their order until one answers.
func (f *forwarder) exchange(ctx context.Context, q dns.Question, dnssec, disabled bool) (*dns.Msg, error) {
	failed := []error{errNoUpstream}
	for _, server := range f.upstreams() {
		m := &dns.Msg{Question: []dns.Question{q}}
		m.Id, m.RecursionDesired, m.CheckingDisabled = dns.Id(), true, disabled
		m.SetEdns0(payload, dnssec)
		answer, err := exchangeOne(ctx, m, server)
		switch {
		case err != nil:
			failed = append(failed, fmt.Errorf("cannot ask %s: %w", server, err))
		case answer.Rcode == dns.RcodeServerFailure || answer.Rcode == dns.RcodeRefused || answer.Rcode == dns.RcodeNotImplemented:
			failed = append(failed, fmt.Errorf("cannot ask %s: it answered %s", server, dns.RcodeToString[answer.Rcode]))
		default:
			return answer, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	if len(failed) > 1 {
		failed = failed[1:]
	}
	return nil, errors.Join(failed...)
}

// exchangeOne asks by UDP, and by TCP if the answer did not fit.
func exchangeOne(ctx context.Context, m *dns.Msg, server netip.AddrPort) (*dns.Msg, error) {
	var answer *dns.Msg
	for _, network := range []string{"udp", "tcp"} {
		client := &dns.Client{Net: network, Timeout: upstreamTimeout, UDPSize: payload}
		conn, err := client.DialContext(ctx, server.String())
		if err != nil {
			return nil, err
		}
		// The library looks at ctx's deadline only.
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		answer, _, err = client.ExchangeWithConnContext(ctx, m, conn)
		stop()
		conn.Close()
		if err != nil {
			return nil, err
		}
		if len(answer.Question) != 1 || dns.CanonicalName(answer.Question[0].Name) != m.Question[0].Name ||
			answer.Question[0].Qtype != m.Question[0].Qtype {
			return nil, errors.New("the answer is to another question")
		}
		if !answer.Truncated {
			break
		}
	}
	return answer, nil
}

// upstreams are the servers to ask, at most as many as resolvers use.
func (f *forwarder) upstreams() []netip.AddrPort {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fixed != nil {
		f.servers = f.fixed
	} else if now := f.now(); f.read.IsZero() || now.Sub(f.read) > resolvInterval {
		f.read = now
		if text, err := os.ReadFile(f.resolvConf); err == nil { // else the last list stands
			f.servers = nil
			for _, n := range FirstFew(ParseResolv(string(text)).Nameservers, NameserversMost) {
				if a, err := netip.ParseAddr(n); err == nil {
					f.servers = append(f.servers, netip.AddrPortFrom(a, 53))
				}
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(f.servers), func(a netip.AddrPort) bool { return slices.Contains(f.own, a) })
}

// recall returns a remembered answer, older by the time since.
func (f *forwarder) recall(key string) *dns.Msg {
	f.mu.Lock()
	r, ok := f.cache[key]
	f.mu.Unlock()
	now := f.now()
	if !ok || !now.Before(r.expires) {
		return nil
	}
	m := r.msg.Copy()
	age := uint32(now.Sub(r.stored) / time.Second)
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			if h := rr.Header(); h.Rrtype != dns.TypeOPT {
				h.Ttl -= min(h.Ttl, age)
			}
		}
	}
	return m
}

// remember keeps an answer for as long as its records live; one without records for as long as
// its SOA says (RFC 2308 section 5).
func (f *forwarder) remember(key string, m *dns.Msg) {
	if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return
	}
	life := cacheTTL
	records := m.Answer
	if len(records) == 0 {
		records = m.Ns
		if len(records) == 0 {
			return
		}
	}
	for _, rr := range records {
		seconds := rr.Header().Ttl
		if soa, ok := rr.(*dns.SOA); ok {
			seconds = min(seconds, soa.Minttl)
		}
		life = min(life, time.Duration(seconds)*time.Second)
	}
	if life <= 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	if len(f.cache) >= cacheMost {
		for k, r := range f.cache {
			if !now.Before(r.expires) {
				delete(f.cache, k)
			}
		}
	}
	for k := range f.cache { // any: the order of a map is as good as random
		if len(f.cache) < cacheMost {
			break
		}
		delete(f.cache, k)
	}
	f.cache[key] = remembered{m, now, now.Add(life)}
}
